// What livekit-client derives from a media key: it seals a text with the derived key, which cannot be read
// out of it. Usage: node livekit_keys.mjs MODULES; requests as JSON lines on standard input.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

globalThis.window ??= globalThis;
globalThis.document ??= { addEventListener() {}, createElement: () => ({}) };
if (!globalThis.navigator) globalThis.navigator = { userAgent: "node" };
const place = `${process.argv[2]}/node_modules/livekit-client/dist/livekit-client.esm.mjs`;
const livekit = await import(pathToFileURL(place));

for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
        const { key, salt, iv, text } = JSON.parse(line);
        const material = await livekit.createKeyMaterialFromBuffer(Buffer.from(key, "hex"));
        const options = { ratchetSalt: salt, keySize: 128 };
        const { encryptionKey } = await livekit.deriveKeys(material, options);
        const algorithm = { name: "AES-GCM", iv: Buffer.from(iv, "hex") };
        const sealed = await crypto.subtle.encrypt(algorithm, encryptionKey, Buffer.from(text));
        answer = { sealed: Buffer.from(sealed).toString("hex") };
    } catch (error) {
        answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
