// The stories of the admin UI, in a real browser against a real server with real failures.
import { call, holds, looks, person, until, url, withBrowser } from './browser.mjs';

const refused = 150; // more of one item than the demo's warehouse ships
const attack = '<img src=x onerror="globalThis.attacked=1"><script>globalThis.attacked=1</script>';

await withBrowser(async (browser) => {
  await makeFailures();
  const link = (await call('POST', '/v1/operators', { name: `Ann ${Date.now()}`, scopes: ['operate', 'admin'] })).link;
  const ann = await person(browser);
  await step('a link lets in once', () => comeIn(ann.page, link.path));
  await step('a link lets nobody in twice', () => comeInAgain(browser, link.path));
  await step('one entry is edited and approved', () => editOne(ann.page));
  await step('all of a cause are edited and approved', () => editAll(ann.page));
  await step('hostile payloads do nothing', () => hostile(ann.page));
  await step('keys and search', () => keysAndSearch(ann.page));
  await until('failures are counted', async () => (await call('GET', '/v1/heatmaps/topologies?range=1h')).items.some((t) => t.total_failed >= 31));
  await step('from a red cell to the payload in three clicks', () => redCellToPayload(ann.page));
  await step('a process adds up, shows what it did, and is terminated', () => oneProcess(ann.page));
  await step('the history of order ABC-123 is found', () => historyOf(ann.page));
  await step('keys, operators and retention are set', () => settings(ann.page, browser));
  await step('how things stand looks right', () => overviewLooks(ann.page));
  await step('a password lets in, and nobody is in after leaving', () => passwordAndLeave(ann.page));
  holds(`nothing went wrong on the way: ${ann.wrong.join('; ')}`, ann.wrong.length === 0);
});

async function step(what, story) {
  const began = Date.now();
  try {
    await story();
  } catch (error) {
    console.error(`FAILED: ${what}`);
    throw error;
  }
  console.log(`ok: ${what} (${Date.now() - began} ms)`);
}

function order(name, items) {
  return { order: name, items };
}

async function makeFailures() {
  for (let i = 0; i < 6; i++) await call('POST', '/v1/topologies/demo/nodes/inbox/events', { order: `EMPTY-${i}` });
  for (let i = 0; i < 40; i++) {
    const cups = i < 25 ? refused : 1;
    await call('POST', '/v1/topologies/demo/nodes/inbox/events', order(`ABC-${100 + i}`, [{ sku: 'tea', quantity: 2 }, { sku: 'cup', quantity: cups }]));
  }
  await until('31 messages are in the trash', async () => (await entries()) >= 31);
}

async function comeIn(page, path) {
  await page.goto(url + path);
  await page.getByRole('heading', { name: 'Choose a password' }).waitFor();
  await looks(page, 'password');
  await page.getByLabel('New password').fill('a long sentence is good');
  await page.getByRole('button', { name: 'Keep this password' }).click();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
}

async function comeInAgain(browser, path) {
  const other = await person(browser);
  await other.page.goto(url + path);
  await other.page.getByText('This link has been used').waitFor();
  await other.page.getByRole('button', { name: 'Sign in by a password' }).click();
  await other.page.getByRole('heading', { name: 'Sign in to Sluice' }).waitFor();
  await looks(other.page, 'sign-in');
  await other.page.getByLabel('Name').fill('nobody');
  await other.page.getByLabel('Password').fill('wrong');
  await other.page.getByRole('button', { name: 'Sign in' }).click();
  await other.page.getByText('Name or password is wrong.').waitFor();
  await other.context.close();
}

async function redCellToPayload(page) {
  await page.goto(`${url}/ui/?range=1h`);
  const cell = page.locator('.heat a').first();
  await cell.waitFor();
  const began = Date.now();
  await cell.click(); // one: what failed there
  const cause = page.getByRole('region', { name: 'Causes' }).getByRole('button').first();
  await cause.click(); // two: one cause of it
  await page.locator('#list .link-row').last().click(); // three: one message
  const drawer = page.getByRole('dialog');
  await drawer.getByRole('group', { name: 'Payload', exact: true }).first().getByText('"order"').first().waitFor();
  holds(`three clicks take less than five seconds, and took ${Date.now() - began} ms`, Date.now() - began < 5000);
  await looks(page, 'entry');
  await page.keyboard.press('Escape');
  await drawer.waitFor({ state: 'detached' });
  holds('the filters have survived', page.url().includes('topology=demo') && page.url().includes('failed_after='));
  await looks(page, 'trash-filtered');
}

async function oneProcess(page) {
  const items = [{ sku: 'tea', quantity: 2 }, { sku: 'cup', quantity: refused }, { sku: 'lamp', quantity: 0 }];
  const { correlation_id: id } = await call('POST', '/v1/topologies/demo/nodes/inbox/events', `{"order":${JSON.stringify(attack)},"total":12345678901234567890.5,"items":${JSON.stringify(items)}}`);
  await until('the process has failed', async () => (await call('GET', `/v1/processes/${id}`).catch(() => ({}))).state === 'failed');
  await page.goto(`${url}/ui/processes?state=failed&correlation_id=${id}`);
  await page.locator('#list .link').first().waitFor();
  await looks(page, 'processes');
  await page.locator('#list .link').first().click();
  await page.getByText('1 of 8 messages is in the trash').waitFor();
  await page.locator('.wf-row').first().waitFor(); // until then nobody knows how many came with the event
  const balance = (await page.locator('.balance dd').innerText()).replace(/\s+/g, ' ');
  holds(`it adds up: ${balance}`, balance.startsWith('1 + 7 = 7 done + 1 in trash'));
  holds('each message has its row', (await page.locator('.wf-row').count()) === 8);
  const panel = page.getByRole('region', { name: 'ship' });
  await panel.getByRole('group', { name: 'Request' }).getByText('POST /ship').waitFor();
  await looks(page, 'process');
  await panel.getByRole('button', { name: 'Before and after' }).click();
  await panel.getByText('1 line added, 0 removed').waitFor();
  await looks(page, 'process-changes');
  await page.locator('.wf-row').first().click();
  const first = page.getByRole('region', { name: 'split' });
  await first.getByRole('button', { name: 'Payload' }).click();
  await first.getByText('12345678901234567890.5').waitFor();
  await first.getByRole('button', { name: 'Line 1', exact: true }).click();
  await first.getByText('3 inside').waitFor();
  await looks(page, 'process-payload');
  holds('no script of a payload has run', !(await page.evaluate(() => globalThis.attacked)));
  await page.getByRole('button', { name: 'Replay from here…' }).click();
  await page.getByRole('dialog', { name: 'Replay from split?' }).getByLabel('Reason').fill('To see it again');
  await looks(page, 'process-replay');
  await page.getByRole('button', { name: 'Replay', exact: true }).click();
  await page.getByText('Replayed. This is the new process.').waitFor();
  await page.waitForURL((u) => !u.pathname.includes(id));
  await page.getByText('Replay of').waitFor();
  await page.locator('.wf-row').nth(4).waitFor();
  await looks(page, 'process-replayed');
  await page.locator('.facts').getByRole('link', { name: `…${id.slice(24)}` }).click();
  await page.waitForURL((u) => u.pathname.includes(id));
  await page.getByText('Replayed', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Terminate…' }).click();
  await page.getByLabel('Reason, if there is one').fill('The story is over');
  await looks(page, 'process-terminate');
  await page.getByRole('button', { name: 'Terminate', exact: true }).click();
  await page.getByText('Terminated 1 message.').waitFor();
  await page.getByText('“The story is over”').first().waitFor();
  holds('what is over cannot be terminated', (await page.getByRole('button', { name: 'Terminate…' }).count()) === 0);
}

async function overviewLooks(page) {
  await page.goto(`${url}/ui/?range=1h`);
  await page.locator('.heat a').first().waitFor();
  await page.getByRole('heading', { name: 'Worst causes' }).waitFor();
  await looks(page, 'overview');
  await page.locator('.heat a').first().focus();
  const before = await page.evaluate(() => document.activeElement?.getAttribute('data-cell'));
  await page.keyboard.press('ArrowLeft');
  const after = await page.evaluate(() => document.activeElement?.getAttribute('data-cell'));
  holds(`arrow keys move in the heatmap: ${before} to ${after}`, before !== after && after);
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Trash' }).waitFor();
}

async function entries() {
  return (await call('GET', '/v1/trash/groups')).entries;
}

async function editOne(page) {
  const before = await entries();
  await page.goto(`${url}/ui/trash?node=ship`);
  await page.locator('#list .link-row').first().click();
  const drawer = page.getByRole('dialog');
  await drawer.getByRole('heading', { name: 'Payload' }).waitFor();
  await page.keyboard.press('j'); // the next
  await drawer.getByRole('button', { name: 'Newer entry', disabled: false }).waitFor();
  await page.keyboard.press('k'); // and back
  await drawer.getByRole('button', { name: 'Newer entry', disabled: true }).waitFor();
  await drawer.getByRole('button', { name: 'Edit', exact: true }).click();
  const field = drawer.getByLabel('Payload to send instead');
  const text = await field.inputValue();
  await field.fill(text.replace(`${refused}`, '7'));
  await drawer.getByRole('button', { name: 'Changes' }).click();
  await drawer.getByText('1 line added, 1 removed').waitFor();
  await looks(page, 'entry-changes');
  await drawer.getByRole('button', { name: 'Save', exact: true }).click();
  await drawer.getByText('Edited by').waitFor();
  await drawer.getByRole('button', { name: 'Approve', exact: true }).click();
  await page.getByText('Approved 1 entry.').waitFor();
  await until('the entry has left the trash', async () => (await entries()) === before - 1);
}

async function editAll(page) {
  await page.goto(`${url}/ui/trash?node=ship`);
  await page.getByRole('button', { name: 'Edit all…' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Change each payload first').fill('[{"op":"replace","path":"/quantity","value":9}]');
  await dialog.getByRole('button', { name: 'Preview' }).click();
  await dialog.getByText('Exactly these 24').waitFor();
  await looks(page, 'bulk-preview');
  await dialog.getByRole('button', { name: 'Edit and approve 24' }).click();
  await page.getByText('Approved 24 entries').waitFor();
  await until('no entry of the cause is left', async () => (await call('GET', '/v1/trash?node=ship')).items.length === 0);
  await page.getByText('Nothing matches').waitFor();
  await looks(page, 'bulk-done');
}

async function hostile(page) {
  const texts = [attack, `"><svg onload=globalThis.attacked=1>`, '\u202egnp.exe', '\u0000\u0007\u001b[31mred', '{{7*7}}${7*7}', 'javascript:globalThis.attacked=1', '\u200b\ufeff', 'a'.repeat(20_000)];
  for (const text of texts) {
    await call('POST', '/v1/topologies/demo/nodes/inbox/events', order(text, [{ sku: text.slice(0, 400), quantity: refused }]));
  }
  await call('POST', '/v1/topologies/demo/nodes/inbox/events', `{"order":${'['.repeat(400)}12345678901234567890.12345678901234567890${']'.repeat(400)}}`);
  await call('POST', '/v1/topologies/demo/nodes/inbox/events', Buffer.from([0xff, 0x00, 0x80]).toString('latin1'), { 'Content-Type': 'application/octet-stream', 'Sluice-Header-X': encodeURIComponent(attack) });
  const wanted = texts.length + 2 + 6;
  await until(`${wanted} messages are in the trash`, async () => (await entries()) >= wanted);
  await page.goto(`${url}/ui/trash`);
  const { items } = await call('GET', '/v1/trash?order=newest&limit=50');
  await page.locator('#list .link-row').first().waitFor();
  await looks(page, 'trash-hostile');
  for (const item of items.slice(0, texts.length + 2)) {
    await page.goto(`${url}/ui/trash?entry=${item.message_id}`);
    const drawer = page.getByRole('dialog');
    await drawer.getByRole('heading', { name: 'Payload' }).waitFor();
    for (const view of ['As sent', 'Bytes']) {
      const button = drawer.getByRole('button', { name: view }).first();
      if (await button.count()) await button.click();
    }
    holds('no script of a payload has run', !(await page.evaluate(() => globalThis.attacked)));
    holds('no element of a payload is in the page', (await page.locator('img, dialog script, dialog svg[onload]').count()) === 0);
  }
  await looks(page, 'entry-hostile');
  await page.goto(`${url}/ui/trash?text=${encodeURIComponent('12345678901234567890.12345678901234567890')}`);
  await page.locator('#list .link-row').first().click();
  await page.getByRole('dialog').getByRole('button', { name: 'As sent' }).first().click();
  await page.getByRole('dialog').getByText('12345678901234567890.12345678901234567890').first().waitFor();
}

async function keysAndSearch(page) {
  await page.goto(`${url}/ui/`);
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.locator('.heat').first().waitFor();
  await page.keyboard.press('g');
  await page.keyboard.press('t');
  await page.getByRole('heading', { name: 'Trash' }).waitFor();
  await page.keyboard.press('?');
  await page.getByRole('dialog').getByText('Go to Overview').waitFor();
  await looks(page, 'keys');
  await page.keyboard.press('Escape');
  await page.keyboard.press('/');
  await page.getByRole('combobox').fill('EMPTY-3');
  await looks(page, 'search');
  const chosen = () => page.locator('#found [aria-selected=true]').textContent();
  for (let n = 0; n < 5 && !(await chosen())?.startsWith('Trash with'); n++) await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await until('the list is filtered by the text', async () => page.url().includes('text=EMPTY-3'));
  await until('one entry matches', async () => (await page.locator('#list tbody tr').count()) === 1);
  await page.getByRole('button', { name: 'Remove filter Text' }).click();
  await until('the filter is gone', async () => !page.url().includes('text='));
}

async function historyOf(page) {
  await page.goto(`${url}/ui/`);
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.keyboard.press('/');
  await page.getByRole('combobox').fill('ABC-123');
  const chosen = () => page.locator('#found [aria-selected=true]').textContent();
  for (let n = 0; n < 6 && !(await chosen())?.startsWith('Trace of'); n++) await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Trace' }).waitFor();
  await page.getByText('ABC-123 is', { exact: false }).first().waitFor();
  const part = page.getByRole('region', { name: 'demo v1' }).first();
  await part.getByText('Received').waitFor();
  await part.getByText('Delivered').first().waitFor();
  await looks(page, 'trace');
  const download = page.waitForEvent('download');
  await page.getByRole('link', { name: 'Signed report' }).click();
  holds('the report is a page', (await download).suggestedFilename().endsWith('.html'));
  await page.getByLabel('Entity').fill('order:NOBODY');
  await page.keyboard.press('Enter');
  await page.getByText('Nothing is known about it').waitFor();
  await looks(page, 'trace-nothing');
}

async function settings(page, browser) {
  await page.goto(`${url}/ui/settings`);
  const keys = page.getByRole('region', { name: 'API keys' });
  await keys.getByRole('button', { name: 'New key…' }).click();
  await page.getByRole('dialog').getByLabel('Name').fill('shop');
  await looks(page, 'settings-key');
  await page.getByRole('button', { name: 'Make it' }).click();
  const key = (await page.locator('[data-secret]').textContent()).trim();
  const posted = await fetch(`${url}/v1/topologies/demo/nodes/inbox/events`, { method: 'POST', headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }, body: '{"order":"BY-KEY","items":[{"sku":"tea","quantity":1}]}' });
  holds(`the key lets an event in, and not ${posted.status}`, posted.status === 202);
  await page.getByRole('button', { name: 'I have it' }).click();
  const row = keys.getByRole('row', { name: /^shop/ });
  await row.getByRole('button', { name: 'Revoke…' }).click();
  await page.getByRole('button', { name: 'Revoke', exact: true }).click();
  await row.getByText('Revoked').waitFor();
  const answers = async () => (await fetch(`${url}/v1/topologies/demo/nodes/inbox/events`, { method: 'POST', headers: { Authorization: `Bearer ${key}` }, body: '{"order":"BY-KEY","items":[]}' })).status;
  await until('the key lets nothing in any more', async () => (await answers()) === 401); // within a second
  const operators = page.getByRole('region', { name: 'Operators' });
  await operators.getByRole('button', { name: 'Add operator…' }).click();
  await page.getByRole('dialog').getByLabel('Name').fill('bob');
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  const link = (await page.locator('[data-secret]').textContent()).trim();
  await page.getByRole('button', { name: 'I have it' }).click();
  const bob = await person(browser);
  await bob.page.goto(link);
  await bob.page.getByRole('heading', { name: 'Choose a password' }).waitFor();
  await operators.getByRole('row', { name: /^bob/ }).getByRole('button', { name: 'Disable…' }).click();
  await page.getByRole('button', { name: 'Disable', exact: true }).click();
  await operators.getByText('disabled').waitFor();
  await bob.page.goto(`${url}/ui/`);
  await bob.page.getByRole('heading', { name: 'Sign in to Sluice' }).waitFor();
  await bob.context.close();
  await page.getByRole('region', { name: 'Retention' }).getByRole('button', { name: 'Change…' }).click();
  await page.getByLabel('Days after the end of one of which something was sent again').fill('90');
  await looks(page, 'settings-retention');
  await page.getByRole('button', { name: 'Change', exact: true }).click();
  await page.getByText('90 days after its end').waitFor();
  await looks(page, 'settings');
}

async function passwordAndLeave(page) {
  await page.goto(`${url}/ui/trash?class=rejected`);
  const name = (await page.locator('.who .ell').textContent())?.trim() ?? '';
  await page.getByRole('button', { name: 'You and this browser' }).click();
  await looks(page, 'more');
  await page.getByRole('button', { name: 'Sign out', exact: true }).click();
  await page.getByRole('heading', { name: 'Sign in to Sluice' }).waitFor();
  await page.goto(`${url}/ui/trash?class=rejected`);
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill('a long sentence is good');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Trash' }).waitFor();
  holds('one is where one wanted to be', page.url().includes('class=rejected'));
  await page.getByRole('button', { name: 'You and this browser' }).click();
  await page.getByRole('button', { name: 'Sign out everywhere' }).click();
  await page.getByRole('heading', { name: 'Sign in to Sluice' }).waitFor();
}
