"""The way out for sandboxes that may have one: what is allowed, and the HTTP(S) proxy that holds to it.

Not here: the sandbox's own end (`executor_service.guest.egress`), and who may ask for what (`sessions`).
"""
