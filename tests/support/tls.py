"""A certificate authority made by the test, and TLS in front of a coordinator that speaks none."""

import datetime
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """``file`` is its certificate in PEM form."""

    def __init__(self, directory, name="test CA"):
        self._directory, self._name = directory, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        only_signs = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage = x509.KeyUsage(
            **only_signs, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
        )  # Python 3.13 insists on it (VERIFY_X509_STRICT), and on the key identifiers
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = self._sign(self._name, self._key, [(constraints, True), (usage, True), (identifier, False)])
        self.file = directory / f"{name.replace(' ', '_')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject, key, extensions, days=30):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name, alternative, days=30):
        """A PEM file with a certificate for this :class:`x509.GeneralName`, which this authority has signed, and its
        key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        extensions = [(x509.SubjectAlternativeName([alternative]), False), (authority, False)]
        certificate = self._sign(subject, key, extensions, days)
        file = self._directory / f"{name}-{x509.random_serial_number():x}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return file

    def context(self, host="127.0.0.1", days=30):
        """A server's, with a certificate for this address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue(host, x509.IPAddress(ipaddress.ip_address(host)), days))
        return context


class Front:
    """Listens with TLS, and hands on what it hears to ``port``."""

    def __init__(self, context, port):
        self._context, self._to = context, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self._server.close()

    def _serve(self):
        with suppress(OSError):
            while True:
                plain, _ = self._server.accept()
                threading.Thread(target=self._hand_on, args=(plain,), daemon=True).start()

    def _hand_on(self, plain):
        try:
            client = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._to)) as server:
            threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
            self._copy(client, server)

    @staticmethod
    def _copy(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
