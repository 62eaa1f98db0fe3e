// Headless browsers of Debian's packages. Chromium is driven over CDP, Firefox over WebDriver BiDi.
import puppeteer from "puppeteer-core";
import { ENVIRONMENT, supervise, temporaryFolder } from "./processes.mjs";

const OPTIONS = {
    chromium: {
        browser: "chrome",
        executablePath: "/usr/bin/chromium",
        args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-proxy-server", "--disable-component-update"],
        // The driver turns the back/forward cache off, which one of the tests is about.
        ignoreDefaultArgs: ["--disable-back-forward-cache"],
    },
    firefox: {
        browser: "firefox",
        executablePath: "/usr/bin/firefox-esr",
        extraPrefsFirefox: { "network.proxy.type": 0 },
    },
};

export const BROWSERS = Object.keys(OPTIONS);

/** Starts a browser with a profile of its own. Firefox takes more preferences. */
export async function launch(name, preferences = {}) {
    const options = OPTIONS[name];
    const extraPrefsFirefox = { ...options.extraPrefsFirefox, ...preferences };
    const browser = await puppeteer.launch({ headless: true, env: ENVIRONMENT, userDataDir: temporaryFolder(), ...options, extraPrefsFirefox });
    supervise(browser.process());
    return browser;
}
