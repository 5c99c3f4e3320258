// A registry on loopback with images of some real sizes, which share layers. One blob comes slowly, to be seen under way.
import { createHash, randomFillSync } from 'node:crypto';
import { createServer } from 'node:http';

const MIB = 1024 * 1024;
const INDEX = 'application/vnd.oci.image.index.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';

const digest = (bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const noise = (size) => randomFillSync(Buffer.alloc(size));

export class Registry {
  constructor() {
    this.blobs = new Map();
    this.manifests = new Map();
    this.slow = new Set();
    this.server = createServer((request, response) => this.answer(request, response));
  }

  async start() {
    await new Promise((started) => this.server.listen(0, '127.0.0.1', started));
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  layer(size) {
    const bytes = noise(size);
    this.blobs.set(digest(bytes), bytes);
    return { mediaType: LAYER, digest: digest(bytes), size: bytes.length };
  }

  // An image of two platforms, of which clients pull the first.
  image(repository, tag, layers, labels = {}) {
    const platforms = ['amd64', 'arm64'].map((architecture) => {
      const config = Buffer.from(JSON.stringify({
        os: 'linux', architecture, created: '2026-11-02T08:15:00Z',
        config: { Entrypoint: [`/usr/bin/${repository.split('/').pop()}`], User: '65532', Labels: labels },
        rootfs: { type: 'layers', diff_ids: [] },
      }));
      this.blobs.set(digest(config), config);
      const own = architecture === 'amd64' ? layers : [{ mediaType: LAYER, digest: digest(noise(32)), size: 12 * MIB }];
      const manifest = Buffer.from(JSON.stringify({
        schemaVersion: 2, mediaType: MANIFEST,
        config: { mediaType: CONFIG, digest: digest(config), size: config.length }, layers: own,
      }));
      this.manifests.set(`${repository} ${digest(manifest)}`, [MANIFEST, manifest]);
      return { mediaType: MANIFEST, digest: digest(manifest), size: manifest.length, platform: { os: 'linux', architecture } };
    });
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: platforms }));
    this.manifests.set(`${repository} ${tag}`, [INDEX, index]);
    this.manifests.set(`${repository} ${digest(index)}`, [INDEX, index]);
  }

  answer(request, response) {
    const path = request.url.split('?')[0];
    const manifest = /^\/v2\/(.+)\/manifests\/([^/]+)$/.exec(path);
    const blob = /^\/v2\/.+\/blobs\/([^/]+)$/.exec(path);
    if (path === '/v2/') return response.end('{}');
    const found = manifest && this.manifests.get(`${manifest[1]} ${manifest[2]}`);
    if (found) {
      const [kind, bytes] = found;
      response.writeHead(200, {
        'content-type': kind, 'content-length': bytes.length, 'docker-content-digest': digest(bytes),
        'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '87;w=21600',
      });
      return response.end(request.method === 'HEAD' ? undefined : bytes);
    }
    const content = blob && this.blobs.get(blob[1]);
    if (!content) {
      response.writeHead(404, { 'content-type': 'application/json' });
      return response.end('{"errors":[{"code":"NOT_FOUND","message":"not found"}]}');
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const first = range ? Number(range[1]) : 0;
    const last = range && range[2] ? Math.min(Number(range[2]), content.length - 1) : content.length - 1;
    response.writeHead(range ? 206 : 200, {
      'content-type': 'application/octet-stream', 'content-length': last - first + 1,
      ...(range ? { 'content-range': `bytes ${first}-${last}/${content.length}` } : {}),
    });
    if (request.method === 'HEAD') return response.end();
    if (!this.slow.has(blob[1])) return response.end(content.subarray(first, last + 1));
    let at = first;
    const timer = setInterval(() => {
      response.write(content.subarray(at, Math.min(at + 64 * 1024, last + 1)));
      at += 64 * 1024;
      if (at > last) {
        clearInterval(timer);
        response.end();
      }
    }, 500);
    response.on('close', () => clearInterval(timer));
    return undefined;
  }
}

export { MIB };
