//! How a page looks, measured in the page: whether it fits the screen, and whether its text can be read.

use serde_json::json;

use super::Browser;

/// The least contrast of text and its background (WCAG 2.2, 1.4.3).
const CONTRAST_MIN: f64 = 4.5;

/// Finds texts of too little contrast: it paints the backgrounds of an element's ancestors and the text's colour over
/// each other and compares their luminance.
const FAINT: &str = "
    const [least] = arguments;
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const luminance = () => {
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((part) =>
            part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paint = (colour) => { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); };
    const faint = [];
    for (const element of document.body.querySelectorAll('*')) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!hasText || !element.checkVisibility() || element.disabled || ['SCRIPT', 'STYLE', 'OPTION'].includes(element.tagName)) continue;
        paint('white');
        const behind = [];
        for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
        behind.forEach(paint);
        const back = luminance();
        paint(getComputedStyle(element).color);
        const text = luminance();
        const contrast = (Math.max(back, text) + 0.05) / (Math.min(back, text) + 0.05);
        if (contrast < least) faint.push(`${element.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
    }
    return faint;";

/// Finds controls without a name for those who do not see them.
const NAMELESS: &str = "
    return [...document.querySelectorAll('input, select, button, a')].filter((control) => control.checkVisibility()
        && !control.labels?.length && !control.ariaLabel && !control.textContent.trim()).map((control) => control.outerHTML);";

/// Checks a page at the widths of a telephone, a tablet and a desk, in the light and in the dark scheme, and takes pictures.
pub async fn check(browser: &Browser, name: &str) {
    for scheme in ["light", "dark"] {
        browser.set_scheme(scheme).await;
        for width in [375, 768, 1280] {
            browser.set_width(width).await;
            browser.await_true(&format!("innerWidth === {width}")).await;
            let overflow = "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() \
                            && !e.closest('.scroll, pre, ol, .sr') && e.getBoundingClientRect().right > innerWidth + 0.5)\
                            .map((e) => e.outerHTML.slice(0, 80))";
            assert_eq!(browser.value(overflow).await, json!([]), "{name} at {width}, {scheme}");
            browser.await_true("document.documentElement.scrollWidth <= innerWidth").await;
            let faint = browser.client.execute(FAINT, vec![json!(CONTRAST_MIN)]).await.unwrap();
            assert_eq!(faint, json!([]), "{name} at {width}, {scheme}");
            browser.screenshot(&format!("{name}-{width}-{scheme}.png")).await;
        }
        let dark = browser.value("matchMedia('(prefers-color-scheme: dark)').matches").await;
        assert_eq!(dark, scheme == "dark");
    }
    assert_eq!(browser.client.execute(NAMELESS, vec![]).await.unwrap(), json!([]));
    // Without an icon of its own, a page makes the browser ask for one that is not there.
    assert_eq!(
        browser.value("document.querySelector('link[rel=icon]').href.startsWith('data:image/svg+xml')").await,
        true
    );
    let foreign =
        "performance.getEntriesByType('resource').map((e) => e.name).filter((url) => !url.startsWith(location.origin))";
    assert_eq!(browser.value(foreign).await, json!([]), "{name} loads nothing from elsewhere");
    assert_eq!(browser.console().await, Vec::<String>::new(), "the console of {name} is empty");
}
