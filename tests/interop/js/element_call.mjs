// Element Call in Chromium: one person, one room; it clicks, looks and takes pictures on request.
// Usage: node element_call.mjs MODULES CHROMIUM; then requests on standard input, the first of them
// {"do": "start", ...}. One JSON line of answer to each; the browser ends with the input.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [, , folder, chromium] = process.argv;
const modules = createRequire(pathToFileURL(`${folder}/`));
const { default: playwright } = await import(pathToFileURL(modules.resolve("playwright-core")));
const browser = await playwright.chromium.launch({
    executablePath: chromium,
    args: [
        "--no-sandbox",
        "--allow-loopback-in-peer-connection",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        "--disable-features=WebRtcHideLocalIpsWithMdns",
    ],
});
const troubles = [];
let page;

const requests = {
    async start({ url, storage }) {
        const context = await browser.newContext({
            viewport: { width: 1280, height: 800 },
            permissions: ["camera", "microphone"],
        });
        await context.addInitScript((items) => {
            if (location.protocol === "about:") return;
            for (const [key, value] of Object.entries(items)) localStorage.setItem(key, value);
        }, storage);
        page = await context.newPage();
        page.on("pageerror", (error) => troubles.push(String(error?.stack ?? error)));
        page.on("crash", () => troubles.push("the page crashed"));
        page.on("console", (message) => process.stderr.write(`${message.type()} ${message.text()}\n`));
        await page.goto(url);
        await page.getByTestId("lobby_joinCall").click({ timeout: 60000 });
        return {};
    },
    look: () => page.evaluate(() => {
        const text = (element) => element?.innerText?.trim() ?? "";
        return {
            url: location.href,
            inCall: document.querySelector("[data-testid=incall_leave]") !== null,
            tiles: [...document.querySelectorAll("[data-testid=videoTile]")].map(text),
            // How many frames of each tile with a picture were shown so far.
            frames: Object.fromEntries([...document.querySelectorAll("[data-testid=videoTile]")]
                .filter((tile) => tile.querySelector("video"))
                .map((tile) => [
                    text(tile.querySelector("[data-testid=name_tag]") ?? tile),
                    tile.querySelector("video").getVideoPlaybackQuality().totalVideoFrames,
                ])),
            text: text(document.body).slice(0, 2000),
            members: (window.rtcSession?.memberships ?? []).map((member) => ({
                userId: member.userId,
                deviceId: member.deviceId,
                transports: member.transports,
            })),
        };
    }).then((seen) => ({ ...seen, troubles })),
    async picture({ path }) {
        await page.screenshot({ path });
        return {};
    },
    async leave() {
        await page.getByTestId("incall_leave").click();
        return {};
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
        answer = await requests[request.do](request);
    } catch (error) {
        answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
