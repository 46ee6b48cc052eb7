"""Three Spark Thrift Servers that share a real Hive metastore and a warehouse: HiveServer2 that nobody here wrote.

Each is a process group of its own, in a directory of its own, and ends with the tests, whatever becomes of them.
"""

import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.components import lacking
from tests.support.servers import eventually, free_port

BOOT_SECONDS = 120
# Small and quick to start: the compiler that is slow at first and fast later would never pay here.
SLEEP = "reflect('java.lang.Thread', 'sleep', 60000L)"
JVM = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss512k"]


def require_spark():
    """SPARK_HOME of a Spark 3.5 with its Thrift Server."""
    home = os.environ.get("SPARK_HOME", "")
    if not home:
        lacks = "SPARK_HOME is not set (to the folder of pip install pyspark==3.5.9, in an environment of its own)"
    elif not list(Path(home, "jars").glob("spark-hive-thriftserver_*.jar")):
        lacks = f"SPARK_HOME={home} has no jars/spark-hive-thriftserver_*.jar"
    elif not shutil.which("java"):
        lacks = "java is not installed: apt-get install openjdk-17-jre-headless"
    else:
        return home
    return lacking(f"{lacks}: a HiveServer2 that is not our own is NOT tested")


class Process:
    """One JVM, which answers on ``host:port`` once it is up."""

    host = "127.0.0.1"

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        self.port = free_port()
        self.process = None

    def command(self):
        raise NotImplementedError

    def launch(self):
        # The kernel kills it should this process be killed.
        command = ["setpriv", "--pdeathsig", "KILL", *map(str, self.command())]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                # A host's own name may not resolve, and must not be listened on.
                env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_up(self):
        eventually(self._answers, BOOT_SECONDS)

    def _answers(self):
        assert self.alive, self.log.read_text()[-4000:]
        try:
            socket.create_connection((self.host, self.port), 1).close()
        except OSError:
            return False
        return True

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def log(self):
        return self.directory / "log"

    def kill(self):
        if self.alive:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Metastore(Process):
    """Listens on every interface: Hive 2.3 has no option for it (``HiveMetaStore.startMetaStore`` asks for a socket
    without a host; ``hive.metastore.thrift.bind.host`` came later). So its port is a free one, and for minutes only."""

    def __init__(self, directory, home, warehouse):
        super().__init__(directory)
        self.home, self.warehouse = home, warehouse

    def command(self):
        opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("lang", "net", "util")]
        settings = {
            "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={self.directory}/metastore_db;create=true",
            "hive.async.log.enabled": "false",  # else it wants a class that Spark leaves out, and never listens
            "hive.metastore.schema.verification": "false",
            "datanucleus.schema.autoCreateAll": "true",
            "hive.metastore.warehouse.dir": f"file:{self.warehouse}",
        }
        return [
            *["java", "-Xmx300m", *JVM, *opened, f"-Dderby.system.home={self.directory}"],
            *[f"-Djava.io.tmpdir={self.directory}", "-cp", f"{self.home}/jars/*"],
            *["org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", self.port],
            *hiveconf(settings),
        ]


class Server(Process):
    """One Thrift Server: what our side takes for a coordinator."""

    def __init__(self, directory, home, warehouse, metastore, host):
        super().__init__(directory)
        self.home, self.warehouse, self.metastore, self.host = home, warehouse, metastore, host

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def command(self):
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": "1",
            "spark.local.dir": f"{self.directory}/tmp",
            "spark.sql.warehouse.dir": self.warehouse,
            "spark.sql.catalogImplementation": "hive",
            "spark.hadoop.hive.metastore.uris": f"thrift://127.0.0.1:{self.metastore.port}",
            "spark.driver.extraJavaOptions": " ".join([*JVM, f"-Djava.io.tmpdir={self.directory}"]),
        }
        hive = {
            "hive.server2.thrift.bind.host": self.host,
            "hive.server2.thrift.port": self.port,
            "hive.server2.authentication": "NOSASL",
            "hive.exec.scratchdir": f"{self.directory}/scratch",
            "hive.exec.local.scratchdir": f"{self.directory}/scratch-local",
            "hive.server2.logging.operation.log.location": f"{self.directory}/operations",
        }
        return [
            *[f"{self.home}/bin/spark-submit", "--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"],
            # Two: with one, a statement would wait for another session's to end.
            *["--name", self.host, "--master", "local[2]", "--driver-memory", "600m"],
            *[word for key, value in settings.items() for word in ("--conf", f"{key}={value}")],
            *["spark-internal", *hiveconf(hive)],
        ]

    def wait_up(self):
        """Its first statement takes seconds, and none of the tests' time limits is for that."""
        from impala import dbapi

        super().wait_up()
        with (
            dbapi.connect(host=self.host, port=self.port, timeout=BOOT_SECONDS) as connection,
            connection.cursor() as cursor,
        ):
            for statement in ("SHOW TABLES", "SELECT 1"):
                cursor.execute(statement)
                assert cursor.fetchall() is not None

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    @property
    def sleeping(self):
        """Whether a statement of :data:`SLEEP` is in its sleep: what the JVM's own dump of its threads says."""
        before = self.log.stat().st_size
        self.process.send_signal(signal.SIGQUIT)

        def dump():
            with open(self.log, "rb") as log:
                log.seek(before)
                text = log.read()
            return text if b"\nJNI global refs" in text else None

        return b"CallMethodViaReflection" in eventually(dump, 30)


class Servers:
    """The metastore, and the three servers in ``nodes``."""

    def __init__(self, directory, home):
        self.directory = directory
        warehouse = directory / "warehouse"
        self.metastore = Metastore(directory / "metastore", home, warehouse)
        self.nodes = [
            Server(directory / f"server{number}", home, warehouse, self.metastore, f"127.0.0.{number}")
            for number in (1, 2, 3)
        ]

    def __enter__(self):
        try:
            self.metastore.launch()
            self.metastore.wait_up()
            self.heal()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in (*self.nodes, self.metastore):
            process.kill()

    def heal(self):
        """Start again what a test has killed."""
        dead = [node for node in self.nodes if not node.alive]
        for node in dead:
            node.launch()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.wait_up, dead))

    def node(self, address):
        return next(node for node in self.nodes if node.address == address)


def hiveconf(settings):
    return [word for key, value in settings.items() for word in ("--hiveconf", f"{key}={value}")]
