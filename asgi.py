"""What gunicorn serves by default: `gunicorn asgi:app`, the whole API with online predictions on the event loop."""

from app.factory import create_app
from app.lanes.loop import LoopLane

app = LoopLane(create_app())
