// Pictures that are decoded before anybody looks at them.

export class Pictures {
  #kept = new Map();

  // The picture at an address: an element that shows it at once if it was announced before
  get(address) {
    let found = this.#kept.get(address);
    if (!found) {
      found = new Image();
      found.draggable = false;
      found.alt = "";
      found.src = address;
      found.decode().catch(() => found.classList.add("missing"));
      this.#kept.set(address, found);
    }
    return found;
  }

  // These will be asked for soon; the others will not
  announce(addresses) {
    const wanted = new Set(addresses);
    for (const address of this.#kept.keys()) if (!wanted.has(address)) this.#kept.delete(address);
    for (const address of addresses) this.get(address);
  }
}
