"""Pictures over HTTP: one batcher behind the APIs of OpenAI, of the web UI, and of jobs."""
