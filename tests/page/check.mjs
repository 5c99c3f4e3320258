// What a person and a browser meet on the pages of the admin listener. `run` prepares it.
import { spawn } from 'node:child_process';
import { openSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { push } from './push.mjs';
import { MIB, Registry } from './registry.mjs';

const { BINARY, WORK, MODULES, PICTURES } = process.env;
const load = createRequire(`${MODULES}/`);
const { chromium } = load('playwright-core');
const axe = readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8');
const trafficSeconds = Number(process.env.SECONDS_OF_TRAFFIC ?? 90);

const WIDTHS = { wide: 1280, phone: 390 };
const PAGES = {
  overview: '/',
  images: '/images',
  inspect: '/images/inspect?image=docker.io/library/nginx:1.27',
  clients: '/clients?server=https://mirror.example:5000',
  configuration: '/configuration',
  missing: '/images/inspect?image=docker.io/library/nothing:1',
  nothing: '/hosted',
};
// Of the one that hosts: a node of a cluster does not.
const HOSTED_PAGES = {
  hosted: '/hosted',
  repositories: '/hosted/repositories?q=team',
  tags: '/hosted/tags?repository=team/app',
};

let passed = 0;
const failures = [];
const check = (name, problems) => {
  const list = [problems].flat().filter(Boolean);
  if (list.length === 0) {
    passed += 1;
    console.log(`ok      ${name}`);
  } else {
    failures.push(name);
    console.log(`FAILED  ${name}\n        ${list.join('\n        ')}`);
  }
};

// The registries and the mirror

const hub = new Registry();
const ghcr = new Registry();
const base = hub.layer(28.2 * MIB);
ghcr.blobs.set(base.digest, hub.blobs.get(base.digest));
hub.image('library/nginx', '1.27', [base, hub.layer(13.7 * MIB), hub.layer(629)], {
  maintainer: 'NGINX Docker Maintainers', evil: '<script>alert(1)</script>',
});
hub.image('library/redis', '7.4', [base, hub.layer(9.1 * MIB)]);
ghcr.image('org/app', 'v1', [base, ghcr.layer(21.4 * MIB)]);
const slow = hub.layer(90 * MIB);
hub.slow.add(slow.digest);
hub.image('library/postgres', '17', [slow]);
const [hubUrl, ghcrUrl] = [await hub.start(), await ghcr.start()];

writeFileSync(`${WORK}/secret`, '0123456789abcdef'.repeat(4));
writeFileSync(`${WORK}/roadstead.toml`, `
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[cache]
dir = "${WORK}/cache"
max_size = "2GB"
[state]
dir = "${WORK}/state"
[cluster]
listen = "127.0.0.1:0"
peers = ["127.0.0.1:1"]
secret_file = "${WORK}/secret"
zone = "a"
[log]
level = "warn"
[upstream."docker.io"]
endpoints = ["${hubUrl}"]
default = true
[upstream."ghcr.io"]
endpoints = ["${ghcrUrl}"]
[upstream."quay.io"]
endpoints = ["http://127.0.0.1:1"]
username = "robot"
password = "hunter2-password"
`);
writeFileSync(`${WORK}/hosting.toml`, `
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[cache]
dir = "${WORK}/hosting-cache"
max_size = "100MB"
[state]
dir = "${WORK}/hosting-state"
[log]
level = "warn"
[hosted]
enabled = true
max_size = "2GB"
[[hosted.namespace]]
name = "team"
visibility = "public"
quota = "100MB"
[[hosted.namespace]]
name = "secret"
[upstream."docker.io"]
endpoints = ["${hubUrl}"]
default = true
`);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));
// The addresses for clients and for operators.
const serve = async (name) => {
  const server = spawn(BINARY, ['serve', '--config', `${WORK}/${name}.toml`], {
    stdio: ['ignore', 'pipe', openSync(`${WORK}/${name}.log`, 'w')], env: { ...process.env, HOME: WORK },
  });
  // However this ends, nothing of it goes on.
  process.on('exit', () => server.kill('SIGKILL'));
  const ready = await new Promise((resolve, reject) => {
    let text = '';
    server.stdout.on('data', (data) => {
      text += data;
      const found = /listening on (http:\/\/\S+) \(admin (http:\/\/\S+)\)/.exec(text);
      if (found) resolve(found);
    });
    server.on('exit', (code) => reject(new Error(`${name} ended with ${code}`)));
  });
  return ready.slice(1);
};
const [clientUrl, adminUrl] = await serve('roadstead');
const [hostingUrl, hostingAdminUrl] = await serve('hosting');

const get = async (path, query) => {
  const answer = await fetch(`${clientUrl}${path}?ns=${query}`, { headers: { 'user-agent': 'containerd/2.1.4' } });
  return Buffer.from(await answer.arrayBuffer());
};
const pull = async (upstream, repository, tag) => {
  const index = JSON.parse(await get(`/v2/${repository}/manifests/${tag}`, upstream));
  const manifest = JSON.parse(await get(`/v2/${repository}/manifests/${index.manifests[0].digest}`, upstream));
  for (const part of [manifest.config, ...manifest.layers]) await get(`/v2/${repository}/blobs/${part.digest}`, upstream);
};

await push(hostingUrl);

const until = Date.now() + trafficSeconds * 1000;
for (let round = 0; round === 0 || Date.now() < until; round += 1) {
  await pull('docker.io', 'library/nginx', '1.27');
  if (round > 0) await pull('ghcr.io', 'org/app', 'v1');
  if (round > 1) await pull('docker.io', 'library/redis', '7.4');
  await get('/v2/library/nothing/manifests/1', 'docker.io').catch(() => {});
  await get('/v2/org/lost/manifests/1', 'quay.io').catch(() => {});
  await sleep(Math.min(3000, trafficSeconds * 50));
}
pull('docker.io', 'library/postgres', '17').catch(() => {});
await sleep(trafficSeconds * 200);

// The browser

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
const open = async (options) => {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (message) => {
    const isExpected = page.expectsError && message.text().includes('404');
    if (['error', 'warning'].includes(message.type()) && !isExpected) page.complaints.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => page.complaints.push(`error: ${error.message}`));
  page.on('request', (request) => {
    const url = request.url();
    const isOurs = url.startsWith(adminUrl) || url.startsWith(hostingAdminUrl);
    if (!isOurs && !url.startsWith('data:')) page.complaints.push(`asked ${url}`);
  });
  return page;
};
const visit = async (page, path, at = adminUrl) => {
  page.expectsError = path === PAGES.missing;
  await page.goto(at + path);
  if (path.split('?')[0] === '/') await page.waitForSelector('#live.on');
};

// Violations that keep somebody from reading or using a page.
const violations = async (page) => {
  await page.evaluate(axe);
  const result = await page.evaluate(() => globalThis.axe.run({ resultTypes: ['violations'] }));
  return result.violations
    .filter((it) => ['serious', 'critical', 'moderate'].includes(it.impact))
    .map((it) => `${it.id} (${it.impact}): ${it.nodes.slice(0, 3).map((node) => node.html).join(' ')}`);
};

// The page is not wider than the window; what is, scrolls by itself.
const overflow = (page) => page.evaluate(() => {
  const width = document.documentElement.scrollWidth;
  return width > innerWidth ? `${width} wide in ${innerWidth}` : '';
});

// Tab reaches everything that can be used, in the order of the document, and each shows that it has the focus.
const keyboard = async (page) => {
  const wanted = await page.evaluate(() => {
    const all = document.querySelectorAll('a[href], button, input:not([type="hidden"]), summary, pre[tabindex="0"]');
    return [...all].filter((it) => it.checkVisibility()).length;
  });
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  const problems = [];
  const reached = new Set();
  for (let step = 0; step < wanted + 2 && reached.size < wanted; step += 1) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return null;
      element.dataset.number ??= String(Math.random());
      const style = getComputedStyle(element);
      const box = element.getBoundingClientRect();
      const isSeen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0;
      return { id: element.dataset.number, isSeen, html: element.outerHTML.slice(0, 100) };
    });
    if (!at) continue;
    reached.add(at.id);
    if (!at.isSeen) problems.push(`no visible focus: ${at.html}`);
  }
  if (reached.size < wanted) problems.push(`Tab reaches ${reached.size} of ${wanted}`);
  return problems;
};

for (const locale of ['en-GB', 'zh-CN']) {
  for (const colorScheme of ['light', 'dark']) {
    for (const [size, width] of Object.entries(WIDTHS)) {
      const page = await open({ locale, colorScheme, viewport: { width, height: 900 }, deviceScaleFactor: 1 });
      const pages = Object.entries(PAGES).map(([name, path]) => [name, path, adminUrl]);
      const hosted = Object.entries(HOSTED_PAGES).map(([name, path]) => [name, path, hostingAdminUrl]);
      for (const [name, path, at] of [...pages, ...hosted]) {
        const title = `${name} ${locale.slice(0, 2)} ${colorScheme} ${size}`;
        await visit(page, path, at);
        check(`${title}: no console error, no foreign request`, page.complaints.splice(0));
        check(`${title}: fits`, await overflow(page));
        check(`${title}: axe`, await violations(page));
        await page.screenshot({ path: `${PICTURES}/${title.replaceAll(' ', '-')}.png`, fullPage: name !== 'configuration' });
        if (colorScheme === 'light') check(`${title}: keyboard`, await keyboard(page));
        const language = await page.getAttribute('html', 'lang');
        check(`${title}: language`, language.startsWith(locale.slice(0, 2)) ? '' : language);
      }
      await page.context().close();
    }
  }
}

// A person

const page = await open({ locale: 'en-GB', viewport: { width: 1280, height: 900 } });
await visit(page, '/');
const before = await page.textContent('#figures');
await pull('docker.io', 'library/nginx', '1.27');
const changed = page.waitForFunction((text) => document.getElementById('figures').textContent !== text, before, { timeout: 5000 });
check('the overview changes by itself', await changed.then(() => '', (error) => error.message));
const progress = await page.getAttribute('#fills progress', 'value').catch((error) => error.message);
const moved = page.waitForFunction((value) => document.querySelector('#fills progress')?.value > Number(value), progress, { timeout: 15000 });
check('a fill moves on', await moved.then(() => '', (error) => error.message));
await page.focus('#charts a[href="/?window=week"]');
await sleep(2500);
const focused = await page.evaluate(() => document.activeElement.getAttribute('href'));
check('the focus stays where it is', focused === '/?window=week' ? '' : String(focused));
await page.keyboard.press('Enter');
await page.waitForURL('**/?window=week');
check('a link works by the keyboard', await page.locator('[aria-current="true"]').textContent() === 'Last 7 days' ? '' : 'no');
await page.click('.language');
check('the language is changed by a link', (await page.getAttribute('html', 'lang')) === 'zh-Hans' ? '' : 'no');
await page.goto(`${adminUrl}/images`);
check('and remembered', (await page.getAttribute('html', 'lang')) === 'zh-Hans' ? '' : 'no');
await page.fill('#q', 'ngi');
await page.keyboard.press('Enter');
await page.waitForURL('**/images?q=ngi');
const rows = await page.locator('tbody tr').allTextContents();
check('the search finds', rows.length === 1 && rows[0].includes('nginx') ? '' : rows);
await page.click('tbody a');
const text = await page.textContent('main');
check('an image says who shares its layers', text.includes('ghcr.io/org/app') ? '' : text);
await page.goto(`${adminUrl}/configuration`);
const toml = await page.textContent('pre');
check('secrets are masked', toml.includes('robot') && !toml.includes('hunter2') ? '' : toml);
await page.goto(`${hostingAdminUrl}/hosted`);
await page.click('#main a[href="/hosted/repositories"]');
await page.fill('#q', 'TEAM/A');
await page.keyboard.press('Enter');
await page.waitForURL('**/hosted/repositories?q=TEAM%2FA');
await page.click('tbody a');
await page.waitForURL('**/hosted/tags?repository=team%2Fapp');
await page.click('[rel=next]');
check('tags go on behind the first page', (await page.locator('tbody tr').count()) === 10 ? '' : page.url());
await page.fill('#q', 'V1.07');
await page.click('button');
const found = await page.locator('tbody th').allTextContents();
check('the search of tags finds, and stays in its repository', found.join() === 'v1.07' ? '' : [page.url(), ...found]);
await page.goto(`${adminUrl}/configuration`);
await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
await page.click('.copy');
const copied = await page.evaluate(() => navigator.clipboard.readText());
check('a file is copied', copied === toml ? '' : copied.slice(0, 100));
check('all that without complaint', page.complaints);

const plain = await open({ locale: 'en-GB', javaScriptEnabled: false, viewport: { width: 1280, height: 900 } });
await plain.goto(`${adminUrl}/`);
const shown = await plain.textContent('main');
check('without script there is everything, once', shown.includes('docker.io') && !(await plain.isVisible('#live')) ? '' : shown);
await plain.goto(`${adminUrl}/images`);
await plain.fill('#q', 'redis');
await plain.click('button');
check('and the search', (await plain.locator('tbody tr').count()) === 1 ? '' : plain.url());

await browser.close();
console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length === 0 ? 0 : 1);
