// Makes the fixtures in this folder with sigstore's own JavaScript, and verifies them with it. See README.md.
import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const folder = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
// The packages are in the folder that this is run from.
const require = createRequire(path.join(process.cwd(), 'x.js'));
const { DSSEBundleBuilder, MessageSignatureBundleBuilder, FulcioSigner, RekorWitness } = require('@sigstore/sign');
const { bundleFromJSON, bundleToJSON } = require('@sigstore/bundle');
const { Verifier, toSignedEntity } = require('@sigstore/verify');
const mock = require('@sigstore/mock');

const manifest = fs.readFileSync(path.join(folder, 'manifest.json'));
const digest = crypto.createHash('sha256').update(manifest).digest('hex');
const IN_TOTO = 'application/vnd.in-toto+json';

function statement(predicateType) {
  const subject = [{ digest: { sha256: digest } }];
  return Buffer.from(JSON.stringify({ _type: 'https://in-toto.io/Statement/v1', subject, predicateType, predicate: {} }));
}
const signed = statement('https://sigstore.dev/cosign/sign/v1');

function write(name, bundle) {
  fs.writeFileSync(path.join(folder, name), JSON.stringify(bundleToJSON(bundle)) + '\n');
}

function keySigner(pair, hash) {
  const publicKey = pair.publicKey.export({ type: 'spki', format: 'pem' });
  const sign = async (data) => ({
    signature: crypto.sign(hash, data, pair.privateKey),
    key: { $case: 'publicKey', hint: 'fixture', publicKey },
  });
  return { publicKey, sign };
}

async function byKey(name, pair, hash) {
  const signer = keySigner(pair, hash);
  const bundle = await new DSSEBundleBuilder({ signer, witnesses: [] }).create({ data: signed, type: IN_TOTO });
  fs.writeFileSync(path.join(folder, `${name}.pub`), signer.publicKey);
  write(`${name}.json`, bundle);
  const material = {
    certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [],
    publicKey: () => ({ publicKey: pair.publicKey, validFor: () => true }),
  };
  const thresholds = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0, tsaThreshold: 0 };
  const read = bundleFromJSON(JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`))));
  new Verifier(material, thresholds).verify(toSignedEntity(read));
  console.log(`${name}: ${read.mediaType}, verified`);
  return signer;
}

const p256 = await byKey('p256', crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }), 'sha256');
await byKey('rsa2048', crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }), 'sha256');

write('p256_message.json',
  await new MessageSignatureBundleBuilder({ signer: p256, witnesses: [] }).create({ data: manifest }));
write('p256_provenance.json', await new DSSEBundleBuilder({ signer: p256, witnesses: [] })
  .create({ data: statement('https://slsa.dev/provenance/v1'), type: IN_TOTO }));

// By a certificate of an authority and a log that are made up here.
await mock.mockFulcio();
await mock.mockRekor();
const claims = { iss: 'https://issuer.example.com', sub: 'ci@example.com', email: 'ci@example.com', email_verified: true };
const token = `e30.${Buffer.from(JSON.stringify({ ...claims, aud: 'sigstore', exp: 4e9 })).toString('base64url')}.x`;
const signer = new FulcioSigner({
  fulcioBaseURL: 'https://fulcio.sigstore.dev', identityProvider: { getToken: async () => token },
});
const witness = new RekorWitness({ rekorBaseURL: 'https://rekor.sigstore.dev', entryType: 'dsse' });
write('keyless.json', await new DSSEBundleBuilder({ signer, witnesses: [witness] }).create({ data: signed, type: IN_TOTO }));
