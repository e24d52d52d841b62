import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.Executors;

/** POST: answers "LENGTH SHA256" of the body. usage: java Server.java ADDRESS PORT */
public class Server {
    public static void main(String[] arguments) throws Exception {
        var address = new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1]));
        var server = HttpServer.create(address, 128);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            try (var body = exchange.getRequestBody()) {
                var digest = MessageDigest.getInstance("SHA-256");
                var buffer = new byte[65536];
                long length = 0;
                for (int count = body.read(buffer); count >= 0; count = body.read(buffer)) {
                    digest.update(buffer, 0, count);
                    length += count;
                }
                var told = (length + " " + HexFormat.of().formatHex(digest.digest()) + "\n").getBytes();
                exchange.sendResponseHeaders(200, told.length);
                exchange.getResponseBody().write(told);
                exchange.close();
            } catch (java.security.NoSuchAlgorithmException impossible) {
                throw new IllegalStateException(impossible);
            }
        });
        server.start();
        System.out.println("listening");
    }
}
