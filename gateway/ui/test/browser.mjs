// What the stories of the UI have in common: a browser, a person in it, and an eye for what nobody may see.
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export const url = process.env.SLUICE_URL;
export const key = process.env.SLUICE_API_KEY;
const pictures = process.env.SLUICE_UI_PICTURES; // a directory, if somebody wants to look

export const wide = { width: 1440, height: 900 };
export const narrow = { width: 390, height: 844 };

export async function withBrowser(story) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
  });
  try {
    await story(browser);
  } finally {
    await browser.close();
  }
}

// person is somebody at a browser. Whatever goes wrong on a page of theirs is kept.
export async function person(browser, options = {}) {
  const context = await browser.newContext({ viewport: wide, colorScheme: 'light', locale: 'en-GB', timezoneId: 'UTC', ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const wrong = [];
  page.on('pageerror', (e) => wrong.push(`error: ${e.message}`));
  page.on('console', (m) => {
    if (m.type() === 'error' && !/status of 40[0-9]/.test(m.text())) wrong.push(`console: ${m.text()} ${m.location().url}`);
  });
  page.on('request', (r) => {
    if (!r.url().startsWith(url) && !r.url().startsWith('data:')) wrong.push(`request to elsewhere: ${r.url()}`);
  });
  page.on('dialog', (d) => {
    wrong.push(`dialog: ${d.message()}`);
    void d.dismiss();
  });
  return { context, page, wrong };
}

// call asks the API directly, as a program does.
export async function call(method, path, body, headers = {}) {
  const answer = await fetch(url + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', ...headers },
    body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

// until waits for a fact. What is counted in the background is there after a minute and some seconds.
export async function until(what, holds) {
  for (const deadline = Date.now() + 150_000; ; ) {
    const got = await holds();
    if (got) return got;
    if (Date.now() > deadline) throw new Error(`never so: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export function holds(what, is) {
  if (!is) throw new Error(`not so: ${what}`);
}

// sound checks a page by axe, and that nothing is wider than the page.
export async function sound(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  const said = violations.map((v) => `${v.id}: ${v.help}\n    ${v.nodes.slice(0, 3).map((n) => `${n.html}  ${n.any.map((a) => a.message).join('; ')}`).join('\n    ')}`);
  if (said.length) throw new Error(`${name}: axe finds\n  ${said.join('\n  ')}`);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (over > 0) throw new Error(`${name}: the page is ${over} px wider than the window`);
}

// still waits until the page has taken on its new look: two frames, so that transitions have begun, and then their ends. What moves for ever is not waited for.
async function still(page) {
  await page.evaluate(async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    await frame();
    await frame();
    const moves = document.getAnimations().filter((a) => Number.isFinite(a.effect?.getComputedTiming().endTime));
    await Promise.allSettled(moves.map((a) => a.finished));
  });
}

// looks checks a page in both sizes and both themes. Where somebody wants pictures, it takes all four.
export async function looks(page, name) {
  for (const [size, viewport, colorScheme] of [['1440', wide, 'light'], ['1440', wide, 'dark'], ['390', narrow, 'light'], ['390', narrow, 'dark']]) {
    if (!pictures && (viewport === wide) !== (colorScheme === 'light')) continue;
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme });
    await still(page);
    if (pictures) {
      mkdirSync(pictures, { recursive: true });
      await page.screenshot({ path: `${pictures}/${name}-${size}-${colorScheme}.png` });
    }
    await sound(page, `${name} at ${size} px, ${colorScheme}`);
  }
  await page.setViewportSize(wide);
  await page.emulateMedia({ colorScheme: 'light' });
}
