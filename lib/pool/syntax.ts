import { type Node, type Program, parse } from 'acorn';

/** The parts of a syntax tree that matter here. */
export interface Syntax extends Node {
  readonly generator?: boolean;
  readonly async?: boolean;
  readonly operator?: string;
  readonly argument?: Syntax;
  readonly name?: string;
  readonly expression?: Syntax;
  readonly properties?: Syntax[];
  readonly kind?: string;
  readonly value?: Syntax;
  readonly object?: Syntax;
  readonly property?: Syntax;
  readonly computed?: boolean;
}

/** A function's text, read. */
export interface Text {
  readonly program: Program;
  readonly root: Syntax;
  /** Whether it reads as an expression, or only as a method inside of an object. */
  readonly form: 'expression' | 'method';
  readonly kind: string | undefined;
}

export function read(source: string): Text | SyntaxError {
  const expression = tryParse(`(${source}\n)`);
  const program = expression instanceof Error ? tryParse(`({${source}\n})`) : expression;
  if (program instanceof Error) {
    // It is the one or the other: the reading that got further says what is wrong.
    return [expression as ParseError, program].sort((a, b) => b.pos - a.pos)[0] as ParseError;
  }
  const form: Text['form'] = program === expression ? 'expression' : 'method';
  const value = (program.body[0] as unknown as Syntax).expression as Syntax;
  const method = form === 'method' ? value.properties?.[0] : undefined;
  return { program, root: method?.value ?? value, form, kind: method?.kind };
}

type ParseError = SyntaxError & { pos: number };

function tryParse(text: string): Program | ParseError {
  try {
    return parse(text, { ecmaVersion: 'latest', ranges: true });
  } catch (error) {
    return error as ParseError;
  }
}

/** All nodes from here on inwards, but for those that `enter` turns away. */
export function* within(node: Syntax, enter: (node: Syntax) => boolean): Generator<Syntax> {
  yield node;
  for (const part of Object.values(node).flat()) {
    if (typeof part?.type === 'string' && enter(part)) yield* within(part, enter);
  }
}
