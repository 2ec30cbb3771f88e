"""Which versions of which models are served, and how every process of every host comes to know."""
