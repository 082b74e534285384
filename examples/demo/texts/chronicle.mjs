// Writes the chronicle of a small harbour town, as long as it is asked to be. The same number of sentences always
// gives the same text, no sentence comes twice, and one in seven tells an earlier event over again in other words:
// these are the pairs that a comparison should find.

/** What happens in the town. Each event can be told in three ways that mean the same. */
const EVENTS = [
  [
    '{who} mended the {thing} at {place} before {hour}.',
    'Before {hour} the {thing} at {place} had been mended by {who}.',
    'It was {who} who mended the {thing} at {place}, and it was done before {hour}.',
  ],
  [
    '{who} sold {amount} of {goods} to {other} at {place}.',
    'At {place} {other} bought {amount} of {goods} from {who}.',
    'The {amount} of {goods} that {who} sold went to {other} at {place}.',
  ],
  [
    'The {ship} came in from {port} with {amount} of {goods}.',
    'With {amount} of {goods} on board, the {ship} arrived from {port}.',
    'From {port} came the {ship}, and {amount} of {goods} with her.',
  ],
  [
    'The {ship} lay off {place} for {days} because of the {weather}.',
    'Because of the {weather} the {ship} had to lie off {place} for {days}.',
    'For {days} the {weather} kept the {ship} lying off {place}.',
  ],
  [
    '{who} and {other} quarrelled over the {thing} at {place}, and by {hour} they had made peace.',
    'There was a quarrel between {who} and {other} about the {thing} at {place}, but peace was made by {hour}.',
    'Over the {thing} at {place} {who} quarrelled with {other}, and made peace by {hour}.',
  ],
  [
    '{who} found {find} under the {thing} at {place}.',
    'Under the {thing} at {place} {find} was found by {who}.',
    'What {who} found at {place}, under the {thing}, was {find}.',
  ],
  [
    'The {weather} of {hour} broke the {thing} at {place}.',
    'The {thing} at {place} was broken by the {weather} at {hour}.',
    'At {hour} the {weather} came over {place} and broke the {thing}.',
  ],
  [
    '{who} was chosen to keep the {thing} at {place} for {days}.',
    'For {days} the {thing} at {place} was to be kept by {who}, who had been chosen for it.',
    'The choice fell on {who}, who kept the {thing} at {place} for {days}.',
  ],
  [
    'The captain of the {ship} paid {other} with {amount} of {goods} for the use of the {thing}.',
    'For the use of the {thing} {other} was paid {amount} of {goods} by the captain of the {ship}.',
    '{other} lent the {thing} to the captain of the {ship} and was paid with {amount} of {goods}.',
  ],
  [
    '{who} taught the children of {place} how to measure the {weather} with {find}.',
    'The children of {place} learned from {who} how {find} can measure the {weather}.',
    'How the {weather} is measured with {find} was what {who} taught the children of {place}.',
  ],
  [
    'A letter from {port} reached {who} at {place} after {days}.',
    'After {days} on its way a letter from {port} was handed to {who} at {place}.',
    'It took {days} until the letter from {port} was in the hands of {who} at {place}.',
  ],
  [
    '{who} promised {other} a new {thing} and brought {find} instead.',
    'Instead of the new {thing} that was promised, {other} got {find} from {who}.',
    'A new {thing} was what {who} had promised {other}, and {find} was what came.',
  ],
  [
    'The bell at {place} rang at {hour} for the {ship}, which was {days} late from {port}.',
    'At {hour} they rang the bell at {place} for the {ship}, {days} late on her way from {port}.',
    '{days} late, the {ship} from {port} was greeted by the bell at {place} at {hour}.',
  ],
  [
    '{who} counted {amount} of {goods} at {place} and wrote down less.',
    'At {place} there were {amount} of {goods} when {who} counted, and fewer when it was written down.',
    'The count that {who} made at {place} was {amount} of {goods}, though the book says less.',
  ],
];

const WORDS = {
  who: 'Agnes Marlow,old Tobias Fenn,the harbour master,Ruth Callow,the younger Pell,Edda Voss,the schoolmaster,Jonas Reed,the widow Larkin,Silas Thorne,the baker,Hanne Brock,Matthias Orr,the lamplighter,Clara Dunmore,the cooper,Ivo Stark,Judith Penrose,the ferryman,Lorenz Hale,the apothecary,Nell Garrow,Piet Sander,the ropemaker',
  place:
    'the north mole,the fish market,the tar yard,Lantern Stairs,the old customs house,Saint Orla’s well,the upper lock,Gull Lane,the salt store,the ferry landing,Candle Row,the rope walk,the lower bridge,the pilots’ hut,Cooper’s Yard,the signal hill,the drying green,the mill race,the eastern gate,the net lofts',
  thing:
    'weathercock,great scales,tide gauge,winch,pump,brass lantern,landing stage,bread oven,signal mast,tollgate,water butt,sundial,crane,fog bell,handcart,capstan,copper kettle,town drum,sluice,ladder',
  goods:
    'salt,barley,lamp oil,Baltic timber,smoked eel,wool,roof slate,candles,tar,apples,sailcloth,tin,honey,hemp,chalk,dried peas',
  amount:
    'two barrels,three cartloads,forty sacks,a dozen crates,seven bundles,twenty baskets,nine casks,half a shipload,fifteen chests,a hundredweight,eleven tubs,sixty bales',
  find: 'a silver spoon,a Spanish coin,a wooden flute,the lost seal of the guild,an empty birdcage,a bottle with a letter in it,a set of brass weights,an unfinished map,a key that fitted no lock,a glass float,an almanac without a year,a child’s boot',
  weather:
    'east wind,hailstorm,spring tide,sea fog,hard frost,thunderstorm,southerly gale,long drought,first snow,driving rain',
  hour: 'daybreak,noon,nine in the morning,four in the afternoon,sunset,midnight,the turn of the tide,evening bell,half past six,market time',
  ship: 'Patience,Grey Heron,Two Sisters,Morning Star,Anna Katrin,Good Intent,Blackthorn,Swift Return,Saint Orla,Plover,Lady of Tern,Last Penny',
  port: 'Varnholm,Lisk,Port Amity,Dunsea,the Orrin Islands,Kessel,Merrow,Tallin Sound,the White Coast,Osterby',
  days: 'two days,three days,five days,a week,eight days,ten days,a fortnight,three weeks,a month',
};
WORDS.other = WORDS.who;

const RETOLD = 1 / 7;

/** @param {number} length how many sentences */
export function chronicle(length) {
  const random = seededRandom(1741);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const words = Object.fromEntries(Object.entries(WORDS).map(([name, list]) => [name, list.split(',')]));
  const told = new Set();
  const once = [];
  let text = '';

  while (told.size < length) {
    const again = once.length > 20 && random() < RETOLD;
    const event = again ? pick(once) : { wordings: pick(EVENTS), facts: {}, left: [0, 1, 2] };
    if (event.left.length === 0) continue;
    if (!again) for (const name in words) event.facts[name] = pick(words[name]);
    if (event.facts.who === event.facts.other) continue;

    const [wording] = event.left.splice(Math.floor(random() * event.left.length), 1);
    const sentence = capitalise(event.wordings[wording].replace(/\{(\w+)\}/g, (_, name) => event.facts[name]));
    if (told.has(sentence)) continue;

    const startsParagraph = random() < 0.2;
    text += `${text && (startsParagraph ? '\n\n' : ' ')}${sentence}`;
    told.add(sentence);
    if (!again) once.push(event);
  }
  return `${text}\n`;
}

function capitalise(sentence) {
  return sentence[0].toUpperCase() + sentence.slice(1);
}

/** A linear congruential generator: chance that is the same every time. */
function seededRandom(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}
