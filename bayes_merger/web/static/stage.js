// Where pictures are looked at: one, beside the best, in its place, pixel by pixel, or all of a merge.

const SWIPE = 50; // pixels

export class Stage extends EventTarget {
  zoom = false;
  #stage;
  #picture;
  #down = null;

  // `picture` gives the element that shows an id's picture, its preview or the whole of it
  constructor(stage, picture) {
    super();
    this.#stage = stage;
    this.#picture = picture;
    stage.addEventListener("pointerdown", (event) => (this.#down = { x: event.clientX, y: event.clientY }));
    stage.addEventListener("pointermove", (event) => this.#pan(event));
    stage.addEventListener("pointerup", (event) => this.#released(event));
    stage.addEventListener("pointercancel", () => (this.#down = null));
    new ResizeObserver(() => this.#fit()).observe(stage);
  }

  // Up to two pictures {id, width, height, caption, alt} side by side, or a grid of as many as there are; and a prompt
  show({ panes = [], grid = [], prompt = "" }) {
    this.#stage.classList.toggle("zoomed", panes.length > 0 && this.zoom);
    ["left", "right"].forEach((name, index) => {
      this.#part(name).hidden = !panes[index];
      if (panes[index]) this.#fill(this.#part(name), panes[index]);
    });
    this.#part("grid").hidden = !grid.length;
    if (grid.length) this.#fillGrid(grid);
    this.#part("prompt").hidden = !prompt;
    this.#part("prompt").textContent = prompt;
    this.#fit();
  }

  #part(name) {
    return this.#stage.querySelector(`#${name}`);
  }

  #fill(figure, { id, width, height, caption = "", alt }) {
    const preview = this.#picture(id, false);
    const whole = this.zoom ? this.#picture(id, true) : null;
    const image = whole?.complete ? whole : preview;
    if (whole && !whole.complete) whole.decode().then(() => this.dispatchEvent(new Event("change")), () => {});
    Object.assign(image.dataset, { width, height });
    image.alt = alt;
    const [shown, label] = [figure.querySelector("img"), figure.querySelector("figcaption")];
    label.textContent = caption;
    if (shown === image) return;
    if (shown) shown.replaceWith(image);
    else figure.prepend(image);
  }

  #fillGrid(pictures) {
    const grid = this.#part("grid");
    const { width, height } = this.#stage.getBoundingClientRect();
    grid.style.setProperty("--columns", Math.max(1, Math.round(Math.sqrt((pictures.length * width) / height))));
    const shown = pictures.map((one) => one.id).join();
    if (grid.dataset.shown === shown) return;
    grid.dataset.shown = shown;
    grid.replaceChildren(...pictures.map((one, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `Look at picture ${index + 1}`);
      const image = new Image();
      image.src = this.#picture(one.id, false).src;
      image.alt = one.payload;
      button.append(image);
      button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("pick", { detail: one.id })));
      return button;
    }));
  }

  // Zoomed: a pixel of the picture is one of the screen, or two or more where it would be no larger than fitted
  #fit() {
    for (const image of this.#stage.querySelectorAll(".pane img")) {
      const { width: room, height: high } = image.parentElement.getBoundingClientRect();
      const [width, height] = [Number(image.dataset.width), Number(image.dataset.height)];
      const fitted = Math.min(room / width, high / height);
      const times = Math.floor(fitted) + 1;
      image.style.setProperty("--w", `${times * width}px`);
      image.style.setProperty("--h", `${times * height}px`);
    }
  }

  // A mouse points at the part that is seen, a finger draws it
  #pan(event) {
    if (!this.zoom || (event.pointerType !== "mouse" && !this.#down)) return;
    const pane = event.target.closest(".pane")?.getBoundingClientRect();
    if (!pane) return;
    if (event.pointerType === "mouse") {
      this.#aim((event.clientX - pane.left) / pane.width, (event.clientY - pane.top) / pane.height);
    } else {
      const [x, y] = ["--x", "--y"].map((name) => Number(this.#stage.style.getPropertyValue(name) || 0.5));
      this.#aim(x - (event.clientX - this.#down.x) / pane.width, y - (event.clientY - this.#down.y) / pane.height);
      this.#down = { x: event.clientX, y: event.clientY, moved: true };
    }
  }

  #aim(x, y) {
    this.#stage.style.setProperty("--x", Math.min(Math.max(x, 0), 1));
    this.#stage.style.setProperty("--y", Math.min(Math.max(y, 0), 1));
  }

  #released(event) {
    const down = this.#down;
    this.#down = null;
    const pane = event.target.closest(".pane");
    if (!down || !pane || down.moved || event.button) return;
    const across = event.clientX - down.x;
    if (!this.zoom && Math.abs(across) > SWIPE) {
      this.dispatchEvent(new CustomEvent("swipe", { detail: across < 0 ? 1 : -1 }));
    } else if (Math.abs(across) < 5 && Math.abs(event.clientY - down.y) < 5) {
      const { left, top, width, height } = pane.getBoundingClientRect();
      this.zoom = !this.zoom;
      this.#aim((event.clientX - left) / width, (event.clientY - top) / height);
      this.dispatchEvent(new Event("change"));
    }
  }
}
