"""Serves one GGUF model with llama.cpp's HTTP server on 127.0.0.1: llama-server.py MODEL_PATH PORT.

It ends when its standard input ends, so it cannot outlive the test that holds the other end of the pipe. One thread and one
request at a time: on a busy two-core machine a second thread is many times slower.
"""

import os
import sys

from xllamacpp import CommonParams, Server

params = CommonParams()
params.model.path = sys.argv[1]
params.port = int(sys.argv[2])
params.hostnames = ["127.0.0.1"]
params.model_alias = {"smollm2"}
params.n_ctx = 4096
params.n_parallel = 1
params.use_jinja = True
params.endpoint_metrics = True
params.cpuparams.n_threads = 1
params.n_gpu_layers = 0

server = Server(params)
sys.stdin.buffer.read()
# The server's own threads would keep the interpreter from ending.
os._exit(0)
