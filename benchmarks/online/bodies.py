"""How many request bodies there are of which size; `classifier` writes them, `post.lua` sends them."""

N_BODIES = 16
ITEMS_PER_REQUEST = (1, 100)
