"""The chat: the real Open WebUI, installed, started beside our service, wired to it and looked after.

Source: Open WebUI 0.12.4, https://github.com/open-webui/open-webui; we run it as it is, and change nothing of it.
"""
