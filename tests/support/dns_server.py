"""A name server on loopback: a real one, of the records that a test sets."""

from __future__ import annotations

import socketserver
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers by UDP while the block lasts.

    :ivar records: type -> values, of the one name; a type that is missing has no records
    :ivar broken: it answers SERVFAIL
    :ivar asked: how many questions came
    """

    def __init__(self, name: str) -> None:
        self.name = name.rstrip(".") + "."
        self.records: dict[str, list[str]] = {}
        self.broken = False
        self.asked = 0
        answer = self._answer

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                sock.sendto(answer(data), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, data: bytes) -> bytes:
        self.asked += 1
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        asked = question.question[0]
        if self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif str(asked.name) != self.name:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif values := self.records.get(dns.rdatatype.to_text(asked.rdtype)):
            answer.answer.append(dns.rrset.from_text_list(asked.name, 1, "IN", asked.rdtype, values))
        return answer.to_wire()

    def __enter__(self) -> NameServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
