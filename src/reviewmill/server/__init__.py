"""The service: the same analysis behind HTTP, for programs, notebooks and chat front ends."""
