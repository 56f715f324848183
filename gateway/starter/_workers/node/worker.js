// A worker of Sluice: an HTTP server whose paths are the actions that topologies name. AGENTS.md has the contract.
const http = require("node:http");
const { timingSafeEqual } = require("node:crypto");

// What the nodes do: from the body of a message to the body of the next one.
const actions = {
  "/total": ({ price, quantity }) => {
    if (!(quantity > 0)) throw new RangeError("quantity must be more than 0");
    return { total: price * quantity };
  },
};

function isAllowed(token, shown = "") {
  const [want, got] = [`Bearer ${token}`, shown].map((text) => Buffer.from(text));
  return want.length === got.length && timingSafeEqual(want, got);
}

async function answer(token, request) {
  const body = Buffer.concat(await request.toArray());
  if (!isAllowed(token, request.headers.authorization)) return [401, { reason: "wrong token" }];
  if (!Object.hasOwn(actions, request.url)) return [404, { reason: "no such action" }];
  try {
    return [200, actions[request.url](JSON.parse(body))];
  } catch (error) {
    const hopeless = error instanceof RangeError || error instanceof SyntaxError; // trying again would not help
    return [hopeless ? 422 : 500, { reason: error.message }];
  }
}

exports.worker = (token) => http.createServer(async (request, response) => {
  const [status, reply] = await answer(token, request);
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(reply));
});

if (require.main === module) {
  if (!process.env.SLUICE_TOKEN) throw new Error("SLUICE_TOKEN is not set");
  exports.worker(process.env.SLUICE_TOKEN).listen(process.env.PORT ?? 9000, "127.0.0.1");
}
