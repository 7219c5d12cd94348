// Where pictures are looked at: one, beside the best, in its place, pixel by pixel, or all of a merge.

const SWIPE = 50; // pixels

export class Stage extends EventTarget {
  zoom = false;
  grid = false;
  compare = false;
  prompt = false;
  blink = false;
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

  show(trial, picture) {
    const one = picture && !this.grid;
    const beside = Boolean(one && this.compare && picture.best);
    this.#part("own").hidden = !one;
    this.#part("best").hidden = !beside;
    this.#part("grid").hidden = !(picture && this.grid);
    this.#stage.classList.toggle("zoomed", Boolean(one && this.zoom));
    if (one) this.#fill("own", this.blink && picture.best ? picture.best : picture.id, picture);
    if (beside) this.#fill("best", picture.best, picture);
    if (picture && this.grid) this.#fillGrid(trial);
    this.#part("prompt").hidden = !(picture && this.prompt);
    this.#part("prompt").textContent = picture?.prompt ?? "";
    this.#fit();
  }

  #part(name) {
    return this.#stage.querySelector(`#${name}`);
  }

  #fill(pane, id, { width, height, payload }) {
    const preview = this.#picture(id, false);
    const whole = this.zoom ? this.#picture(id, true) : null;
    const image = whole?.complete ? whole : preview;
    if (whole && !whole.complete) whole.decode().then(() => this.dispatchEvent(new Event("change")), () => {});
    image.dataset.width = width;
    image.dataset.height = height;
    image.alt = pane === "best" || this.blink ? "the best so far" : payload;
    const figure = this.#part(pane);
    const shown = figure.querySelector("img");
    if (shown === image) return;
    if (shown) shown.replaceWith(image);
    else figure.prepend(image);
  }

  #fillGrid(trial) {
    const grid = this.#part("grid");
    const shown = trial.pictures.map((one) => one.id).join();
    if (grid.dataset.shown === shown) return;
    grid.dataset.shown = shown;
    grid.replaceChildren(...trial.pictures.map((one, index) => {
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
