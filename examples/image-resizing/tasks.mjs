import sharp from 'sharp';

// The pool decides how many images are at work at once, not the library inside each worker.
sharp.concurrency(1);

const MOST_PIXELS = 20_000_000;

export async function thumbnail(image, width) {
  const resized = sharp(image, { limitInputPixels: MOST_PIXELS }).resize({ width, withoutEnlargement: true });
  return resized.webp().toBuffer();
}
