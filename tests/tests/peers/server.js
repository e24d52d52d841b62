// POST: answers "<length> <sha256>" of the body.  usage: node server.js ADDRESS PORT
const { createServer } = require("node:http");
const { createHash } = require("node:crypto");

createServer((request, response) => {
  const digest = createHash("sha256");
  let length = 0;
  request.on("data", (piece) => {
    digest.update(piece);
    length += piece.length;
  });
  request.on("end", () => response.end(`${length} ${digest.digest("hex")}\n`));
}).listen(Number(process.argv[3]), process.argv[2], () => console.log("listening"));
