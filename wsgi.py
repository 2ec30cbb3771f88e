"""What gunicorn serves: `gunicorn wsgi:app`. `flask run` finds it too, and then runs jobs in its own process."""

from app.factory import create_app

app = create_app()
