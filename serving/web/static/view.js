// What a frame shows of a photo: the part around its faces that fills the frame, or, where that would cut one off and as long as
// none is known, the whole photo in a frame of the photo's own shape.
const AROUND = 2.2; // heights of the face that the part is high

// The part [x, y, width, height] in pixels of the photo for a frame of this shape (width / height); null for the whole photo.
export function partShown([width, height], faces, shape) {
  if (!faces.length) return null;
  const [x1, y1, x2, y2] = around(faces), chosen = faces.filter((face) => face.chosen);
  const high = Math.max(...(chosen.length ? chosen : faces).map(({ box }) => box[3] - box[1]));
  const wanted = Math.max(AROUND * high, y2 - y1 + high / 2, (x2 - x1 + high / 2) / shape);
  const most = Math.min(height, width / shape); // the largest part that fills the frame
  const shown = Math.min(wanted, most);
  if (y2 - y1 > shown || (x2 - x1) / shape > shown) return null; // it would cut a face off
  const inside = (middle, size, end) => Math.min(Math.max(middle - size / 2, 0), end - size);
  return [inside((x1 + x2) / 2, shown * shape, width), inside((y1 + y2) / 2, shown, height), shown * shape, shown];
}

function around(faces) {
  const side = (index, pick) => pick(...faces.map(({ box }) => box[index]));
  return [side(0, Math.min), side(1, Math.min), side(2, Math.max), side(3, Math.max)];
}

const percent = (share) => `${(100 * share).toFixed(3)}%`;

// Shape the frame (of a place of the shape `room`), and lay the sheet that holds the photo over it so that the part fills it.
export function lay(tile, sheet, [width, height], part, room) {
  const [x, y, wide, high] = part ?? [0, 0, width, height];
  tile.style.setProperty("--shape", wide / high);
  tile.style.width = percent(Math.min(1, wide / high / room));
  Object.assign(sheet.style, {
    left: percent(-x / wide), top: percent(-y / high), width: percent(width / wide), height: percent(height / high),
  });
}

// Lay an element of the frame over a box of the photo, of which the frame shows a part.
export function layBox(element, [x1, y1, x2, y2], [x, y, wide, high]) {
  Object.assign(element.style, {
    left: percent((x1 - x) / wide), top: percent((y1 - y) / high), width: percent((x2 - x1) / wide), height: percent((y2 - y1) / high),
  });
}
