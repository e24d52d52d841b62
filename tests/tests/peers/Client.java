import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * POSTs files and prints the answers. The JVM's sockets are AF_INET6 and reach IPv4 addresses in
 * their mapped form. usage: java Client.java URL FILE...
 */
public class Client {
    public static void main(String[] arguments) throws Exception {
        for (int index = 1; index < arguments.length; index++) {
            var body = Files.readAllBytes(Path.of(arguments[index]));
            var connection = (HttpURLConnection) URI.create(arguments[0]).toURL().openConnection();
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.setFixedLengthStreamingMode(body.length);
            connection.setReadTimeout(30_000);
            try (var out = connection.getOutputStream()) {
                out.write(body);
            }
            try (var in = connection.getInputStream()) {
                System.out.print(new String(in.readAllBytes()));
            }
        }
    }
}
