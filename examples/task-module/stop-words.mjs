export const stopWords = new Set(
  'a an and are as at be but by for from has he in is it its of on or she that the they this to was were will with'.split(
    ' ',
  ),
);
