"""Long work: jobs that are queued in the store and run by workers (`planproof worker`).

queue.py     what the service does with jobs     worker.py   takes jobs out of the queue
watch.py     clients that follow a job           attempt.py  watches the process that runs one
requests.py  what jobs were asked, in files      child.py    that process
records.py   what workers write down             tasks.py    what is done in it
"""
