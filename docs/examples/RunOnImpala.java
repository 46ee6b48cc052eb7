import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Runs a command on the Impala coordinator that the balancer picks, and counts there until the command ends.
 *
 * <pre>
 * export IMPALA_LB_CONFIG=/etc/impala_lb.yml
 * java RunOnImpala.java [--hold SECONDS] [--session-key K] COMMAND [ARGUMENT ...]
 * java RunOnImpala.java --hold 7200 impala-shell --protocol=hs2 -i {host} -f x.sql
 * </pre>
 *
 * In the arguments {@code {host}} stands for the coordinator's {@code host:port}; the command also finds it in its
 * environment as {@code IMPALA_HOST}. {@code IMPALA_LB} names the balancer's command, if it is not on the PATH.
 *
 * <p>Exit code: the command's own; 125 if no coordinator was picked, 127 if the command cannot be started (as env(1)
 * and timeout(1) do), 143 after SIGTERM, 130 after Ctrl-C.
 */
public final class RunOnImpala {

    private static final String IMPALA_LB = System.getenv().getOrDefault("IMPALA_LB", "impala-lb");
    private static final long DEFAULT_HOLD_SECONDS = 3600;
    /** How long a command may take to end after SIGTERM before it is killed, in seconds. */
    private static final long GRACE_SECONDS = 10;
    private static final long RELEASE_SECONDS = 30;

    public static void main(String[] arguments) throws Exception {
        long hold = DEFAULT_HOLD_SECONDS;
        String sessionKey = null;
        int at = 0;
        while (at + 1 < arguments.length && arguments[at].startsWith("--")) {
            switch (arguments[at]) {
                case "--hold" -> hold = Long.parseLong(arguments[at + 1]);
                case "--session-key" -> sessionKey = arguments[at + 1];
                default -> usage();
            }
            at += 2;
        }
        List<String> command = List.of(arguments).subList(at, arguments.length);
        if (command.isEmpty()) {
            usage();
        }

        int code;
        Lease lease = new Lease();
        // Also when this JVM is told to end (SIGTERM, Ctrl-C). Not after SIGKILL: then the lease ends by its expiry.
        Runtime.getRuntime().addShutdownHook(new Thread(lease::end));
        try {
            lease.take(hold, sessionKey);
            code = lease.run(command);
        } catch (NotPicked error) {
            System.err.println("RunOnImpala: " + error.getMessage());
            code = 125;
        } finally {
            lease.release();
        }
        System.exit(code);
    }

    private static void usage() {
        System.err.println("usage: RunOnImpala [--hold SECONDS] [--session-key K] COMMAND [ARGUMENT ...]");
        System.exit(2);
    }

    /** The balancer gave no coordinator; it has said why on standard error. Nothing was run. */
    static final class NotPicked extends Exception {
        private static final long serialVersionUID = 1;

        NotPicked(String message) {
            super(message);
        }
    }

    /** One claim on a coordinator, and the work that it is for. */
    static final class Lease {
        private final CountDownLatch picked = new CountDownLatch(1);
        private volatile boolean ending;
        private volatile Process picker;
        private volatile Process work;
        private volatile String host;
        private String id; // guarded by this; null: nothing to release
        private long until;

        /**
         * Ask for a coordinator. While all are busy or full the balancer waits, up to its {@code max_wait}.
         *
         * @param seconds how long the lease lives unless it is released. Choose it longer than the work.
         */
        void take(long seconds, String sessionKey) throws IOException, InterruptedException, NotPicked {
            List<String> command = new ArrayList<>(List.of(IMPALA_LB, "pick", "--json", "--hold", "" + seconds));
            if (sessionKey != null) {
                command.addAll(List.of("--session-key", sessionKey));
            }
            try {
                Process process;
                synchronized (this) {
                    if (ending) {
                        throw new NotPicked("told to end before it began");
                    }
                    process = new ProcessBuilder(command)
                            .redirectInput(new File("/dev/null")) // standard input belongs to the work
                            .redirectError(ProcessBuilder.Redirect.INHERIT)
                            .start();
                    picker = process;
                }
                String line;
                try (BufferedReader output = process.inputReader()) {
                    line = output.readLine();
                }
                until = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
                if (line != null) {
                    host = field(line, "host");
                    synchronized (this) {
                        id = field(line, "lease");
                    }
                }
                if (process.waitFor() != 0 || host == null) {
                    throw new NotPicked(IMPALA_LB + " gave no coordinator, so nothing was run");
                }
            } catch (IOException error) {
                throw new NotPicked(error.getMessage());
            } finally {
                picked.countDown();
            }
        }

        /**
         * The work. Here a command. For JDBC, open the connection at this place instead:
         *
         * <pre>
         * String url = "jdbc:hive2://" + host + "/dwh;auth=noSasl";   // NOSASL; with LDAP: user and password
         * try (Connection connection = DriverManager.getConnection(url);
         *         Statement statement = connection.createStatement()) {
         *     for (String sql : script) {
         *         statement.execute(sql);                             // all of them on one coordinator, in one session
         *     }
         * }
         * </pre>
         *
         * and let {@link #end} call {@code statement.cancel()} where it ends the process: the lease must not go
         * before the work has ended, or the node looks idle while it is not.
         */
        int run(List<String> command) throws InterruptedException {
            List<String> filled = command.stream().map(argument -> argument.replace("{host}", host)).toList();
            ProcessBuilder builder = new ProcessBuilder(filled).inheritIO();
            builder.environment().put("IMPALA_HOST", host);
            synchronized (this) {
                if (ending) {
                    return 143; // told to end before it began
                }
                try {
                    work = builder.start();
                } catch (IOException error) {
                    System.err.println("RunOnImpala: " + error.getMessage());
                    return 127;
                }
            }
            if (!work.waitFor(until - System.nanoTime(), TimeUnit.NANOSECONDS)) {
                // Not taken again: a new pick may be on another node, and the work is on this one.
                System.err.println("RunOnImpala: the work on " + host + " outlasts its lease. It goes on, but the "
                        + "others see its node as less loaded than it is: give a longer --hold");
            }
            return work.waitFor();
        }

        /** For the shutdown hook: end what runs, then release. {@code main} goes on beside it, until this returns. */
        void end() {
            try {
                synchronized (this) {
                    ending = true;
                }
                Process asked = picker;
                if (asked != null && asked.isAlive()) {
                    asked.destroy();
                    picked.await(5, TimeUnit.SECONDS); // it may have taken a lease and be about to say so
                }
                Process running = work;
                if (running != null && running.isAlive()) {
                    running.destroy();
                    if (!running.waitFor(GRACE_SECONDS, TimeUnit.SECONDS)) {
                        running.destroyForcibly().waitFor();
                    }
                }
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            release();
        }

        /** Give the lease back; once, whoever calls first. A failure is said, and costs nothing but time: it expires. */
        synchronized void release() {
            if (id == null) {
                return;
            }
            String released = id;
            id = null;
            try {
                Process process = new ProcessBuilder(IMPALA_LB, "release", released)
                        .redirectInput(new File("/dev/null"))
                        .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                        .redirectError(ProcessBuilder.Redirect.INHERIT)
                        .start();
                if (!process.waitFor(RELEASE_SECONDS, TimeUnit.SECONDS)) {
                    process.destroyForcibly();
                    System.err.println("RunOnImpala: lease " + released + " was not released in time; it expires");
                }
            } catch (IOException error) {
                System.err.println("RunOnImpala: lease " + released + " was not released: " + error.getMessage());
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }

        /** A value of the flat JSON object that {@code pick --json} prints; hosts and ids hold nothing escaped. */
        private static String field(String json, String name) {
            Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"\\\\]*)\"").matcher(json);
            return found.find() ? found.group(1) : null;
        }
    }
}
