"""What a page is to those who see little, or have no mouse: contrast, names of what is shown, where the focus is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

FAINT = """() => {
  const numbers = (colour) => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    const [r, g, b, a = 1] = found;
    return colour.startsWith("color(") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((one, at) => one * a + below[at] * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => one / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (one) => {
    const own = one ? numbers(getComputedStyle(one).backgroundColor) : [255, 255, 255, 1];
    return own[3] === 1 ? own.slice(0, 3) : over(own, below(one.parentElement));
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    const words = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words.length || !one.checkVisibility({ visibilityProperty: true }) || one.closest("svg, :disabled, option")) continue;
    const ground = below(one), ink = over(numbers(getComputedStyle(one).color), ground);
    const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(1)} ${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`);
  }
  return faint;
}"""

NAMELESS = """() => {
  const named = (one) => one.ariaLabel || one.labels?.length || one.textContent.trim() || one.querySelector("img[alt]:not([alt=''])");
  const parts = [...document.querySelectorAll("button, a[href], input, select, textarea, summary, progress")];
  return [...parts.filter((one) => one.checkVisibility() && !one.closest("[aria-hidden=true]") && !named(one)),
          ...document.querySelectorAll("img:not([alt])")].map((one) => one.outerHTML.slice(0, 120));
}"""

FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const seen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) || one.closest(".wipe:focus-within");
  return [one.tagName, one.id || one.textContent.trim().slice(0, 24), Boolean(seen)];
}"""


def faint(page: Page) -> list[str]:
    """Texts whose contrast is below 4.5 (https://www.w3.org/TR/WCAG22/#contrast-minimum), and what it is."""
    found: list[str] = page.evaluate(FAINT)
    return found


def nameless(page: Page) -> list[str]:
    """What can be used or seen and has no name for those who hear a page."""
    found: list[str] = page.evaluate(NAMELESS)
    return found


def tabbed(page: Page, most: int = 200) -> list[tuple[str, str, bool]]:
    """What the Tab key comes to, in its order: kind, name, and whether one sees that it is there."""
    page.evaluate("document.activeElement.blur()")
    found: list[tuple[str, str, bool]] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        kind, name, seen = page.evaluate(FOCUSED)
        if kind == "BODY":
            break
        found.append((kind, name, seen))
    return found
