import { buffer } from 'node:stream/consumers';
import { progress } from 'express-unblock/worker';
import PDFDocument from 'pdfkit';

const ROWS_ON_A_PAGE = 40;

export async function report(title, rows) {
  const document = new PDFDocument({ size: 'A4' });
  const whole = buffer(document);
  document.fontSize(20).text(title).moveDown().fontSize(10);
  for (const [index, row] of rows.entries()) {
    if (index > 0 && index % ROWS_ON_A_PAGE === 0) {
      document.addPage();
      progress(index / rows.length);
    }
    document.text(row);
  }
  document.end();
  return whole;
}
