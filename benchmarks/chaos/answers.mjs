/** Reads the answers on one connection, strictly: what is no well-formed HTTP/1.1 response throws. */
export class AnswerReader {
  continued = 0;
  #unread = Buffer.alloc(0);
  #head;
  #ended = false;

  /** What has arrived and belongs to no answer yet. */
  get rest() {
    return this.#unread.toString('latin1', 0, 200);
  }

  get begun() {
    return this.#head !== undefined || this.#unread.length > 0;
  }

  /** @returns the answers that `chunk` completes */
  read(chunk) {
    this.#unread = Buffer.concat([this.#unread, chunk]);
    const answers = [];
    for (let answer = this.#next(); answer !== undefined; answer = this.#next()) {
      if (answer.status === 100) this.continued++;
      else answers.push(answer);
    }
    return answers;
  }

  /** @returns the answer that only the end of the connection ends */
  end() {
    this.#ended = true;
    return this.read(Buffer.alloc(0));
  }

  #next() {
    this.#head ??= this.#readHead();
    if (this.#head === undefined) return undefined;
    const body = this.#readBody(this.#head);
    if (body === undefined) return undefined;
    const answer = { ...this.#head, body };
    this.#head = undefined;
    return answer;
  }

  #readHead() {
    const end = this.#unread.indexOf('\r\n\r\n');
    if (end < 0) return undefined;
    const [first, ...lines] = this.#unread.toString('latin1', 0, end).split('\r\n');
    this.#unread = this.#unread.subarray(end + 4);
    const status = /^HTTP\/1\.1 (\d{3}) [^\r\n]*$/.exec(first)?.[1];
    if (status === undefined) throw new Error(`no status line: ${JSON.stringify(first.slice(0, 80))}`);
    const headers = {};
    for (const line of lines) {
      const [, name, value] = /^([\w-]+): ?(.*)$/.exec(line) ?? [];
      if (name === undefined) throw new Error(`no header: ${JSON.stringify(line.slice(0, 80))}`);
      headers[name.toLowerCase()] = value;
    }
    return { status: Number(status), headers };
  }

  #readBody({ status, headers }) {
    if (status < 200 || status === 204 || status === 304) return '';
    if (headers['transfer-encoding'] === 'chunked') return this.#readChunks();
    if (headers['content-length'] === undefined && headers.connection === 'close') {
      return this.#ended ? this.#take(this.#unread.length) : undefined;
    }
    const length = Number(headers['content-length']);
    if (!Number.isInteger(length)) throw new Error('an answer of unknown length');
    return this.#unread.length < length ? undefined : this.#take(length);
  }

  #readChunks() {
    const parts = [];
    for (let at = 0; ; ) {
      const end = this.#unread.indexOf('\r\n', at);
      if (end < 0) return undefined;
      const size = Number.parseInt(this.#unread.toString('latin1', at, end), 16);
      if (Number.isNaN(size)) throw new Error('a chunk of no size');
      at = end + 2 + size + 2;
      if (this.#unread.length < at) return undefined;
      parts.push(this.#unread.toString('utf8', end + 2, end + 2 + size));
      if (size > 0) continue;
      this.#unread = this.#unread.subarray(at);
      return parts.join('');
    }
  }

  #take(length) {
    const taken = this.#unread.toString('utf8', 0, length);
    this.#unread = this.#unread.subarray(length);
    return taken;
  }
}
