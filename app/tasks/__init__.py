"""What a chunk of each kind of job does. Tasks get bytes and give bytes: they touch no SQL, so that any
executor can run them, in this process or elsewhere."""
