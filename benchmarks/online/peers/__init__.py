"""The other servers: each answers POST /nothing and POST /sentiment as `{"prediction": […]}`."""
