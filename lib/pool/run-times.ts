/** The most runs in memory, and the time after which the weight of a run is halved. */
const MEMORY = 100;
const HALF_LIFE_MS = 60_000;
/** The weight of the newest error in their mean. If the mean is beyond `MOST_DRIFT`, run times have changed. */
const DRIFT_WEIGHT = 0.2;
const MOST_DRIFT = 1;
/** Shorter times count as this, since ln(0) is not a number. */
const SHORTEST_MS = 0.1;
/** Assumed before anything was seen, with the weight of so many runs: time grows with size, give or take a factor of 1.65. */
const PRIOR = { exponent: 1, runs: 4, variance: 0.25 };
/** It is sure with at least so many runs in memory (ten, some seconds old), and at most this variance of ln(time). */
const LEAST_RUNS = 9.5;
const MOST_VARIANCE = 1;
/** In standard deviations: one run in a hundred takes longer. */
const QUANTILE_99 = 2.33;
/** In standard deviations. Errors beyond count as this, so that one outlier does not tilt the line. */
const OUTLIER = 3;
/** The longest run of late fades faster. It counts twice: a run that was given up would have taken longer. */
const PEAK_HALF_LIFE_MS = 2000;
const PEAK_HEADROOM = 2;

const NONE = { size: -1, ms: 0, at: 0 };

/** Run times at one size, in milliseconds. */
export interface Prediction {
  /** Calls may be refused by this: enough runs are in memory, and their size explains enough of their time. */
  readonly isSure: boolean;
  readonly median: number;
  /** 99 of 100 runs take at least this, and at most that. */
  readonly least: number;
  readonly most: number;
}

/**
 * Learns how long one function runs for inputs of a size: a linear regression of ln(time) on ln(size), since run times
 * grow by a power of the size and vary by factors. What it has learnt fades. All times are milliseconds, `now` is the
 * time of any clock that never goes back.
 */
export class RunTimes {
  /** Runs in memory. It fades as the sums below do, and is not a whole number. */
  #runs = 0;
  /** Means of ln(size) and ln(ms); sums of squares around them; sum of squares of the prediction errors. */
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;
  #errors = 0;
  /** Mean of the latest errors, in standard deviations. */
  #drift = 0;
  #fadedAt = 0;
  /** The largest input that was done of late, and the longest run of late. */
  #largest = NONE;
  #peak = { ms: 0, at: 0 };

  /** @param isDone the run has returned; otherwise it was ended, and would have taken longer */
  add(size: number, ran: number, isDone: boolean, now: number): void {
    this.#fade(now);
    const ms = Math.max(SHORTEST_MS, ran);
    if (ms >= this.#peakAt(now)) this.#peak = { ms, at: now };
    if (isDone && size >= this.#largest.size) this.#largest = { size, ms, at: now };
    const x = Math.log1p(size);
    const { level, sd, leverage } = this.#fit(x);
    let y = Math.log(ms);
    // A run that was ended early tells nothing. One that was ended late takes longer than expected.
    if (!isDone && (this.#runs < 1 || y < level)) return;
    if (this.#runs >= 2) {
      const scale = Math.sqrt(1 + leverage);
      const most = this.isSure ? OUTLIER * sd : Number.POSITIVE_INFINITY;
      const error = Math.max(-most, Math.min(most, (y - level) / scale));
      y = level + error * scale;
      this.#errors += error ** 2;
      this.#drift += DRIFT_WEIGHT * (error / sd - this.#drift);
      if (Math.abs(this.#drift) > MOST_DRIFT) this.#forget(0.5);
    }
    this.#runs++;
    const dx = x - this.#x;
    this.#x += dx / this.#runs;
    this.#xx += dx * (x - this.#x);
    this.#y += (y - this.#y) / this.#runs;
    this.#xy += dx * (y - this.#y);
  }

  predict(size: number, now: number): Prediction {
    this.#fade(now);
    const { isSure } = this;
    const { level, sd, leverage } = this.#fit(Math.log1p(size));
    // It will not take much longer than a larger input did of late, whatever the line says.
    const middle = size <= this.#largest.size ? Math.min(level, Math.log(this.#largest.ms)) : level;
    const spread = QUANTILE_99 * sd * Math.sqrt(1 + leverage);
    return {
      isSure,
      median: this.#runs < 1 ? 0 : Math.exp(middle),
      least: isSure ? Math.exp(middle - spread) : 0,
      most: isSure ? Math.exp(middle + spread) : Number.POSITIVE_INFINITY,
    };
  }

  /** How much time a call should have left when it begins: twice the peak if its size is unknown or tells nothing. */
  headroom(size: number | undefined, now: number): number {
    const most = size === undefined ? Number.POSITIVE_INFINITY : this.predict(size, now).most;
    return Number.isFinite(most) ? most : PEAK_HEADROOM * this.#peakAt(now);
  }

  /** The largest size that 99 of 100 runs have done within `limit`; `undefined` where nothing near it was seen. */
  manages(limit: number, now: number): number | undefined {
    this.#fade(now);
    const fits = (x: number) => {
      const { level, sd, leverage } = this.#fit(x);
      return level + QUANTILE_99 * sd * Math.sqrt(1 + leverage) <= Math.log(limit);
    };
    let most = Math.log1p(2 * Math.max(0, this.#largest.size));
    let least = [this.#x, 0].find((x) => x < most && fits(x)) ?? most;
    if (!this.isSure || least === most || fits(most)) return undefined;
    for (let step = 0; step < 40; step++) {
      const middle = (least + most) / 2;
      if (fits(middle)) least = middle;
      else most = middle;
    }
    return Math.floor(Math.expm1(least));
  }

  get isSure(): boolean {
    return this.#certainty >= 0.5;
  }

  /** From 0 to 1: half or more is sure. It rises with the runs, fades with time, and is 0 where size tells nothing. */
  certainty(now: number): number {
    this.#fade(now);
    return this.#certainty;
  }

  get #certainty(): number {
    const isTold = this.#runs >= 1 && this.#errors <= MOST_VARIANCE * this.#runs;
    // In this form, rounding never makes it rise with fewer runs.
    return isTold ? 1 / (1 + LEAST_RUNS / this.#runs) : 0;
  }

  /** The power of the size that the time grows by: 1 in proportion, 2 with the square, 0 not at all. */
  get exponent(): number {
    return Math.max(0, (this.#xy + PRIOR.exponent) / (this.#xx + 1));
  }

  /** The geometric mean of the runs in memory, whatever their size. */
  get typical(): number {
    return Math.exp(this.#y);
  }

  #peakAt(now: number): number {
    return this.#peak.ms * 2 ** ((this.#peak.at - now) / PEAK_HALF_LIFE_MS);
  }

  #fade(now: number): void {
    this.#forget(Math.min(2 ** ((this.#fadedAt - now) / HALF_LIFE_MS), MEMORY / Math.max(MEMORY, this.#runs)));
    this.#fadedAt = now;
    if (now - this.#largest.at > HALF_LIFE_MS) this.#largest = NONE;
  }

  #forget(share: number): void {
    this.#runs *= share;
    this.#xx *= share;
    this.#xy *= share;
    this.#errors *= share;
  }

  /** ln(ms) at ln(size), its standard deviation, and the leverage: less is known far from the sizes that were seen. */
  #fit(x: number): { level: number; sd: number; leverage: number } {
    return {
      level: this.#y + this.exponent * (x - this.#x),
      sd: Math.sqrt((this.#errors + PRIOR.variance * PRIOR.runs) / (this.#runs + PRIOR.runs)),
      leverage: 1 / Math.max(1, this.#runs) + (x - this.#x) ** 2 / (this.#xx + 1),
    };
  }
}
