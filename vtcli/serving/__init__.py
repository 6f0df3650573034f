"""`vt serve`: predictions, embeddings and timelines over HTTP, and a page that shows them.

`settings` says what is allowed, `service` holds the models and counts the work, `app` has the
routes, `server` runs until it is asked to stop and finishes what was accepted.
"""
