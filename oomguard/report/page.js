// Unpacks plotly and draws the two pictures, in the colours of the reader's own light or dark.
"use strict";
(async () => {
  const DARK = {
    "#1f2937": "#e5e7eb", "#6b7280": "#9aa4b2", "#e5e7eb": "#2c3544", "#fffffe": "#161c26",
    "#2563eb": "#60a5fa", "#b45309": "#fbbf24", "#dc2626": "#f87171", "#15803d": "#4ade80",
    "#7c3aed": "#a78bfa", "#0f766e": "#2dd4bf", "#be185d": "#f472b6", "#4d7c0f": "#a3e635", "#0369a1": "#38bdf8",
    "37,99,235": "96,165,250", "180,83,9": "251,191,36", "220,38,38": "248,113,113",
  };
  const nonce = document.currentScript.nonce;
  const pictures = [...document.querySelectorAll(".picture")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const unpack = async () => {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const draw = async () => {
    for (const picture of pictures) {
      let text = document.getElementById("figure-" + picture.id).textContent;
      if (dark.matches) text = text.replace(/#[0-9a-f]{6}|\d+,\d+,\d+(?=,0\.12)/g, (color) => DARK[color] ?? color);
      const { data, layout } = JSON.parse(text);
      if (innerWidth < 640 && data[0].type === "scatter") { layout.margin.l = 52; layout.margin.r = 6; layout.font.size = 10; }
      await Plotly.react(picture, data, layout, { responsive: true, displayModeBar: false, doubleClick: "autosize" });
    }
    document.documentElement.dataset.drawn = pictures.length;
  };
  try {
    await unpack();
    await draw();
    dark.addEventListener("change", draw);
  } catch (error) {
    for (const picture of pictures) picture.textContent = "The pictures could not be drawn: " + error.message;
    document.documentElement.dataset.drawn = "failed";
  }
})();
