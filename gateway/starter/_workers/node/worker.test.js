const assert = require("node:assert");
const { once } = require("node:events");
const test = require("node:test");
const { worker } = require("./worker");

const cases = [
  ["/total", "secret", '{"price": 2.5, "quantity": 4}', 200, '{"total":10}'],
  ["/total", "secret", '{"price": 2.5, "quantity": 0}', 422, "more than 0"],
  ["/total", "secret", "nonsense", 422, "reason"],
  ["/other", "secret", "{}", 404, "no such action"],
  ["/total", "guess", '{"price": 2.5, "quantity": 4}', 401, "wrong token"],
];

test("the worker", async (t) => {
  const server = worker("secret").listen(0, "127.0.0.1");
  await once(server, "listening");
  for (const [action, token, body, status, says] of cases) {
    await t.test(`${action} ${body}`, async () => {
      const url = `http://127.0.0.1:${server.address().port}${action}`;
      const reply = await fetch(url, { method: "POST", headers: { Authorization: `Bearer ${token}` }, body });
      assert.strictEqual(reply.status, status);
      assert.ok((await reply.text()).includes(says));
    });
  }
  server.close();
  server.closeAllConnections();
});
