"""The one object an app needs."""
