// Pushes to a roadstead that hosts: an image of many tags, one that nothing refers to any more, and an upload that is
// not finished.
import { createHash, randomFillSync } from 'node:crypto';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const TAGS = 60;

const digest = (bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

export async function push(url) {
  const send = async (method, path, body, headers = {}) => {
    const answer = await fetch(`${url}${path}`, { method, body, headers });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer;
  };
  const blob = async (repository, bytes) => {
    await send('POST', `/v2/${repository}/blobs/uploads/?digest=${digest(bytes)}`, bytes);
    return { digest: digest(bytes), size: bytes.length };
  };
  const image = async (repository, tags) => {
    const config = await blob(repository, Buffer.from('{"architecture":"amd64","os":"linux"}'));
    const layer = await blob(repository, randomFillSync(Buffer.alloc(3_000_000)));
    const manifest = JSON.stringify({
      schemaVersion: 2, mediaType: MANIFEST,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...layer }],
    });
    for (const tag of tags) await send('PUT', `/v2/${repository}/manifests/${tag}`, manifest, { 'content-type': MANIFEST });
  };
  await image('team/app', Array.from({ length: TAGS }, (_, number) => `v1.${String(number).padStart(2, '0')}`));
  await image('team/web', ['latest']);
  await image('secret/tools', ['stable']);
  const begun = await send('POST', '/v2/team/next/blobs/uploads/');
  const place = new URL(begun.headers.get('location'), url).pathname;
  await send('PATCH', place, randomFillSync(Buffer.alloc(700_000)));
}
