"""The outbox: hands stored sessions on to every active destination."""
