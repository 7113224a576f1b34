"""The routes of the HTTP service. Handlers are plain functions: the framework runs them on threads."""
