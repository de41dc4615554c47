"""Twenty prompts of many kinds, for a calibration that is given none."""

PROMPTS = """\
a red bicycle leaning against a white brick wall
two cats sleeping on a blue sofa
a bowl of oranges on a wooden table, soft morning light
portrait of an old fisherman with a grey beard, looking at the camera
a steam train crossing a stone bridge over a valley
a child flying a kite on the beach
the skyline of a large city at night, reflected in a river
a slice of chocolate cake with strawberries on a plate
a brown horse galloping through shallow water
a narrow street with lanterns in the rain
an astronaut walking through a field of sunflowers
a snow-covered cabin in a pine forest
a barista pouring milk into a cup of coffee
three hot air balloons over a desert at sunrise
a stained glass window showing a sailing ship
a close-up of a dragonfly on a green leaf
an old wooden rowing boat on a calm lake at dawn
a shelf of colourful glass bottles in a window
a fox sitting in fresh snow between birch trees
the interior of a cathedral with light through high windows"""
