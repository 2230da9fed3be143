// Text whose contrast with what is behind it is below 4.5 to 1: WCAG 2.1, 1.4.3.
(() => {
  const numbers = color => (color.match(/[\d.]+/g) || []).map(Number);
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map(part => { const of = part / 255; return of <= .03928 ? of / 12.92 : ((of + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = of => {
    for (let above = of; above; above = above.parentElement) {
      const color = numbers(getComputedStyle(above).backgroundColor);
      if (color.length === 3 || color[3] > .9) return color;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const one of document.querySelectorAll("#page *")) {
    const text = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!text || !one.checkVisibility() || one.disabled) continue;
    const style = getComputedStyle(one), ink = numbers(one instanceof SVGElement ? style.fill : style.color);
    const [light, dark] = [luminance(ink), luminance(behind(one))].sort((a, b) => b - a);
    if ((light + .05) / (dark + .05) < 4.5) faint.add(`${one.tagName}.${one.getAttribute("class")}: ${one.textContent.slice(0, 40)}`);
  }
  return [...faint];
})()
