"""Concepts, the classes, of every icon data set in the order of their labels.

The family has 140 concepts with 95 to 323 pictures each, exact duplicates left out. Names that
stand for several things, such as 'table' and 'radio', and logos are not among them. Look-alikes
share a data set, so that no other data set shows almost the same; the exceptions are in `KIN`.
"""

from __future__ import annotations

from collections.abc import Mapping


def _words(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
  return {name: tuple(words.split()) for name, words in table.items()}


#: The twenty words for things that most designers drew, dealt out by hand so that look-alikes stay
#: on one side.
PAIR = _words(
  {
    'icons_train': 'bell book camera cloud eye folder home key lock phone',
    'icons_unseen': 'bookmark calendar clock flag globe heart moon search star sun',
  }
)
#: The first two have the concepts of `icons_train` and `icons_unseen`; from 'icons/02' on none is
#: in those.
FAMILY = {
  'icons/00': PAIR['icons_train'],
  'icons/01': PAIR['icons_unseen'],
  **_words(
    {
      'icons/02': 'unlock folder-open eye-off video film store building shield credit-card wallet',
      'icons/03': 'alarm timer compass watch leaf hourglass thermometer umbrella droplet bolt',
      'icons/04': 'file copy clipboard newspaper archive chat mail send inbox paperclip',
      'icons/05': 'arrow-left arrow-right arrow-up arrow-down download upload login logout '
      'refresh expand',
      'icons/06': 'monitor laptop tv tablet terminal server database keyboard mouse printer',
      'icons/07': 'plus close check info question warning menu list align-left align-right',
      'icons/08': 'play pause music headphones microphone speaker volume volume-off shuffle power',
      'icons/09': 'shopping-bag basket cart briefcase tag ticket gift box coffee diamond',
      'icons/10': 'user users thumbs-up thumbs-down location map car bus airplane rocket',
      'icons/11': 'pencil brush scissors crop square circle layers image save settings',
      'icons/12': 'trash filter link share code bug wifi bluetooth battery qr-code',
      'icons/13': 'chart pie-chart calculator lightbulb trophy crown dice gamepad flask fire',
    }
  ),
}
#: Data sets of the family that are alike: locks, folders, eyes, cameras; things with a dial.
KIN = (('icons/00', 'icons/02'), ('icons/01', 'icons/03'))
#: Other names of the concepts of the family.
ALIASES = _words(
  {
    'airplane': 'plane',
    'alarm': 'alarm-clock',
    'basket': 'shopping-basket',
    'battery': 'battery-full',
    'bell': 'notification',
    'bolt': 'lightning flash',
    'box': 'package',
    'briefcase': 'suitcase',
    'brush': 'paint-brush paintbrush',
    'camera': 'photo-camera',
    'cart': 'shopping-cart',
    'chart': 'bar-chart chart-bar',
    'chat': 'comment message chat-bubble',
    'check': 'checkmark tick',
    'clock': 'time',
    'close': 'x cross',
    'coffee': 'cup',
    'copy': 'duplicate',
    'diamond': 'gem',
    'droplet': 'drop water-drop',
    'expand': 'maximize fullscreen',
    'eye-off': 'eye-slash',
    'file': 'document',
    'film': 'movie',
    'filter': 'funnel',
    'fire': 'flame',
    'flask': 'beaker',
    'gamepad': 'controller game-controller',
    'gift': 'present',
    'globe': 'earth',
    'headphones': 'headphone headset',
    'home': 'house',
    'image': 'picture photo',
    'info': 'information info-circle information-circle',
    'layers': 'stack',
    'lightbulb': 'bulb idea',
    'link': 'chain',
    'location': 'map-pin map-marker location-pin',
    'lock': 'padlock lock-closed',
    'login': 'log-in sign-in',
    'logout': 'log-out sign-out',
    'mail': 'envelope email',
    'menu': 'hamburger',
    'microphone': 'mic',
    'monitor': 'desktop computer',
    'music': 'music-note',
    'newspaper': 'news',
    'paperclip': 'attachment',
    'pencil': 'edit pen',
    'phone': 'telephone call',
    'pie-chart': 'chart-pie',
    'plus': 'add',
    'printer': 'print',
    'qr-code': 'qrcode',
    'question': 'help question-mark',
    'refresh': 'sync reload',
    'save': 'floppy-disk floppy',
    'scissors': 'cut',
    'search': 'magnifying-glass magnifier magnify',
    'send': 'paper-plane',
    'settings': 'gear cog',
    'shopping-bag': 'bag',
    'store': 'shop',
    'tag': 'label',
    'thermometer': 'temperature',
    'thumbs-down': 'thumb-down',
    'thumbs-up': 'thumb-up',
    'timer': 'stopwatch',
    'trash': 'delete bin trash-can trash-bin garbage',
    'tv': 'television',
    'unlock': 'lock-open',
    'user': 'person account profile',
    'users': 'group people',
    'video': 'video-camera',
    'volume': 'volume-up volume-high',
    'volume-off': 'volume-mute volume-x',
    'warning': 'alert alert-triangle exclamation-triangle',
  }
)
