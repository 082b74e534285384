import { parse } from 'csv-parse/sync';
import { progress } from 'express-unblock/worker';
import createError from 'http-errors';

export function importCsv(text) {
  const rows = parse(text, { columns: true, trim: true });
  const totals = new Map();
  for (const [index, { product, amount }] of rows.entries()) {
    const sold = Number(amount);
    if (!Number.isFinite(sold)) throw createError(422, `Row ${index + 1}: "${amount}" is no amount`);
    totals.set(product, (totals.get(product) ?? 0) + sold);
    if ((index + 1) % 1000 === 0) progress({ done: index + 1, of: rows.length });
  }
  return { rows: rows.length, totals };
}
