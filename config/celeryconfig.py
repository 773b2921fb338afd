"""Settings for a Celery app of your own whose workers are to be nodes.

Copy what you need, then::

    app = Celery("shop")
    app.config_from_object("celeryconfig")
    celery_actors.install(app)

``celery -A celery_actors worker`` needs no such file: it is configured by the environment.
All keys that begin with ``actors_`` are explained in docs/configuration.md.
"""

import os

# RabbitMQ carries the calls, Redis the results.  Passwords stay out of files like this one.
broker_url = os.environ["CELERY_BROKER_URL"]
result_backend = os.environ["CELERY_RESULT_BACKEND"]

# The cluster's secret, the same on every machine; a file that only its user can read.
actors_key_file = os.environ["CELERY_ACTORS_KEY_FILE"]

# What actors send is signed and checked before it is unpickled; your own tasks speak JSON.
accept_content = ["json"]

# A node stays up while a broker is away, and goes on where it was.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True

# Your own tasks only.  Actors have processes of their own, whatever this pool is.
worker_concurrency = 2
worker_cancel_long_running_tasks_on_connection_loss = False

# Monitors see every call of an actor, up to 1,000 a second each (the same as `worker -E`).
worker_send_task_events = True

# A node or driver that doesn't renew for so many seconds is lost, with what runs on it.
actors_lease = 10.0
# A result is kept for so many seconds after the last process that holds a ref to it is gone.
actors_result_ttl = 600.0
# Calls without a result yet that one process may have at one actor before it is held back.
actors_window_calls = 1000
# Whether unsigned JSON messages (plain `send_task`) may call public methods of actors.
actors_allow_plain = True
