"""moto's server of S3, one request at a time: S3 checks a condition and writes in one step, moto's threads do not."""

import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def app(environ, start_response):
    with one_at_a_time:
        return list(moto(environ, start_response))


run_simple("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
