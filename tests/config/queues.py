"""The queues of our Celery workers, told without their app: the one that ticks is for processes of its own."""

QUEUES = ("connector", "subscriber")
