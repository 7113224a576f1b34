"""The cache of reports: in this process's memory, and in a Redis that all processes share where there is one."""
