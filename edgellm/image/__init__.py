"""Images for containers and models as artifacts, written into OCI layouts without a daemon or a registry."""
